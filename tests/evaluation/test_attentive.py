"""Attentive probing: what tokens show is found, what they do not stays chance, and an interruption changes nothing."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy
import pytest
from PIL import Image

from dinokit.core.messages import UserError
from dinokit.dense import sweep
from dinokit.dense.attentive import Probes
from dinokit.evaluation import attentive, base
from dinokit.evaluation.attentive import Config
from dinokit.models.pixels import RawPixels
from tests.conftest import MakeFolder, MakeVit

SPLITS = {"train": 10, "val": 4, "test": 6}


def spots(root: Path, *, kinds: str = "rgb", counts: dict[str, int] = SPLITS, shuffled: bool = False) -> str:
    """Write noise with a spot at a random place, whose colour is the class; shuffled, any class."""
    for split, count in counts.items():
        for number in range(count * len(kinds)):
            draw = numpy.random.default_rng([len(split), number])
            values = draw.integers(0, 60, (16, 16, 3))
            left, top = 4 * draw.integers(0, 4, 2)
            values[top : top + 4, left : left + 4, number % len(kinds)] += 190
            place = int(draw.integers(len(kinds))) if shuffled else number % len(kinds)
            folder = root / split / kinds[place]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values.astype(numpy.uint8)).save(folder / f"{number}.png")
    return str(root)


def test_what_one_token_shows_is_found(tmp_path: Path) -> None:
    data, out = spots(tmp_path / "data", counts={"train": 100, "val": 20, "test": 20}), tmp_path / "out"
    numbers = base.measure("attentive", RawPixels(size=16), Config(data=data), out)
    assert numbers["top1"] == 100.0
    assert (numbers["train"], numbers["test"]) == (300, 60)
    kept = json.loads((out / "attentive.json").read_text())
    assert kept["intervals"]["top1"] == [100.0, 100.0]
    assert len(kept["tried"]) == 18
    best = max(kept["tried"], key=lambda one: one["val"])  # of equal ones the first
    assert best == {name: numbers[name] for name in ("lr", "weight_decay", "val")}


def test_shuffled_labels_are_chance(tmp_path: Path) -> None:
    data = spots(tmp_path, kinds="rg", counts={"train": 40, "val": 20, "test": 50}, shuffled=True)
    # three deviations of 100 fair coins
    assert 35 <= base.measure("attentive", RawPixels(size=16), Config(data=data))["top1"] <= 65


def test_a_training_that_was_killed_ends_the_same(
    tmp_path: Path, make_vit: MakeVit, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, config = spots(tmp_path / "data"), {"passes": 6, "batch_size": 8}
    monkeypatch.setattr(sweep, "SAVE_EVERY", 5)
    base.measure("attentive", make_vit(), Config(data=data, **config), tmp_path / "whole")
    step, taken = Probes.step, list[int]()

    def killed(probes: Probes, *seen: object, step: int) -> None:
        taken.append(step)
        if len(taken) == 13:
            raise KeyboardInterrupt
        steps(probes, *seen, step=step)

    steps = step
    monkeypatch.setattr(Probes, "step", killed)
    with pytest.raises(KeyboardInterrupt):
        base.measure("attentive", make_vit(), Config(data=data, **config), tmp_path / "cut")
    base.measure("attentive", make_vit(), Config(data=data, **config), tmp_path / "cut")
    assert taken[13] == 10
    assert (tmp_path / "cut/attentive.json").read_bytes() == (tmp_path / "whole/attentive.json").read_bytes()


def test_tokens_that_are_not_held_give_the_same(
    tmp_path: Path, make_vit: MakeVit, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config(data=spots(tmp_path), passes=2)
    held = base.measure("attentive", make_vit(), config)
    monkeypatch.setattr(attentive, "HELD", 0.0)
    assert base.measure("attentive", make_vit(), config) == held


def test_few_images_of_each_class_are_drawn_several_times(tmp_path: Path, make_vit: MakeVit) -> None:
    data, out = spots(tmp_path / "data"), tmp_path / "out"
    numbers = base.measure("attentive", make_vit(), Config(data=data, shots=2.0, draws=3, passes=3), out)
    each = json.loads((out / "attentive.json").read_text())["draws"]
    assert [one["train"] for one in each] == [6, 6, 6]
    assert numbers["top1"] == pytest.approx(numpy.mean([one["top1"] for one in each]))
    assert numbers["top1/std"] == pytest.approx(numpy.std([one["top1"] for one in each]))
    assert "lr" not in numbers


def test_parts_of_train_choose_and_are_measured_where_there_is_nothing_else(
    make_folder: MakeFolder, make_vit: MakeVit, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_folder(*(f"{kind}/{number}.png" for kind in "ab" for number in range(10)))
    numbers = base.measure("attentive", make_vit(), Config(data=str(data), passes=2))
    assert (numbers["train"], numbers["test"]) == (14, 4)  # of ten, two are measured and of the other eight one chooses
    assert "no split to test on" in capsys.readouterr().err


def test_pictures_that_train_and_test_share_are_said(
    tmp_path: Path, make_vit: MakeVit, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = spots(tmp_path / "data"), tmp_path / "out"
    (tmp_path / "data/test/r/0.png").write_bytes((tmp_path / "data/train/r/0.png").read_bytes())
    base.measure("attentive", make_vit(), Config(data=data, passes=1), out)
    assert "images of test that are in train or what chooses again, 1: r/0.png = r/0.png" in capsys.readouterr().err
    assert json.loads((out / "attentive.json").read_text())["leakage"]["equal"] == [["r/0.png", "r/0.png"]]


def test_more_tokens_than_the_disk_holds_are_refused_before_any_is_computed(
    tmp_path: Path, make_vit: MakeVit, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, data = make_vit(seed=7), spots(tmp_path)
    room = 17 * 16 * 4 * 3 * sum(SPLITS.values())  # of tokens of 16 float32, 17 of an image
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=room - 1))
    with pytest.raises(UserError, match="the tokens of all images take 0.0 GB in the cache .*; set DINOKIT_CACHE"):
        base.measure("attentive", backbone, Config(data=data, passes=1))
    base.measure("attentive", backbone, Config(data=data, passes=1, limit=9))
    base.measure("attentive", backbone, Config(data=data, passes=1))  # some are there


def test_a_model_without_a_size_of_its_own_sees_squares(make_folder: MakeFolder, make_vit: MakeVit) -> None:
    data = make_folder(*(f"{split}/{kind}/{n}.png" for split in SPLITS for kind in "ab" for n in range(2)))
    Image.new("RGB", (30, 20)).save(data / "train/a/wide.png")
    assert base.measure("attentive", make_vit(size=None), Config(data=str(data), passes=1))["train"] == 5


def test_images_of_several_classes_are_refused(tmp_path: Path, make_vit: MakeVit) -> None:
    spots(tmp_path)
    paths = tmp_path.rglob("*.png")
    rows = [{"path": str(path), "label": ["a", path.parts[-2]], "split": path.parts[-3]} for path in paths]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match="have several classes, such as"):
        base.measure("attentive", make_vit(), Config(data=str(tmp_path / "list.jsonl")))
