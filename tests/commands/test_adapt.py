"""The verb `adapt`: the guard measures, goes back to the best teacher, and the same command changes nothing."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dinokit.checkpoints.store import RunFolder, header
from dinokit.commands import adapt
from dinokit.commands.guarding import Guard, Watched, watched
from dinokit.core.files import read_jsonl
from dinokit.run import engine
from dinokit.sources.source import open_source
from tests.run.test_engine import config
from tests.vits import ARCHITECTURE, vit

CPU = torch.device("cpu")
MakeFolder = Callable[..., Path]
FEW = {
    "data.batch_size": 4, "objectives.koleo.group": 4, "objectives.dino.head.prototypes": 16, "checkpoint_every": 1,
    "objectives.ibot.head.prototypes": 16, "workers": 0, "tensorboard": False, "device": "cpu", "processes": 1,
}  # fmt: skip


@pytest.fixture
def classes(make_folder: MakeFolder) -> Path:
    """Two classes of a colour each, which an untrained network tells apart."""
    return make_folder(*(f"{name}/{index}.png" for name in ("red", "teal") for index in range(6)), name="classes")


def written(run: RunFolder, step: int, *, seed: int | None) -> None:
    """Save a teacher of a step; without a seed one that sees nothing."""
    backbone = vit(seed=seed or 0)
    blind = "patch_embed" if seed is None else "-"
    state = {name: value * 0 if blind in name else value for name, value in backbone.state_dict().items()}
    run.checkpoint(step).mkdir(parents=True, exist_ok=True)
    save_file(state, run.checkpoint(step) / "model.safetensors", header(ARCHITECTURE, backbone.pixels, step=step))


def test_the_guard_goes_back_to_the_best_teacher(classes: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    guard = Guard(run, [Watched("folder", str(classes), "knn")], allowed=2.0, first=5, device=CPU)
    for step, seed in ((0, 0), (5, 0), (10, 1), (20, None)):
        written(run, step, seed=seed)
        assert guard.look(step) is (step == 20), step
    assert [line["step"] for line in guard.lines()] == [0, 10, 20]  # up to 5 it is the original
    assert guard.ended()
    assert guard.best() == 10
    guard.publish("model.safetensors")
    best = run.checkpoint(10) / "model.safetensors"
    assert (run.path / "model.safetensors").read_bytes() == best.read_bytes()
    assert (run.path / "best.safetensors").read_bytes() == best.read_bytes()
    said = r"fell from 100.0 to \d+.0, by more than 2: stopped at step 20; published is the teacher of step 10"
    assert re.search(said, guard.verdict())
    written(run, 20, seed=2)  # trained again, with a lower rate
    assert not guard.look(20)
    assert not guard.ended()


def test_what_was_measured_of_steps_that_are_trained_again_does_not_count(classes: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    guard = Guard(run, [Watched("folder", str(classes), "knn")], allowed=2.0, first=0, device=CPU)
    for step, seed in ((0, 0), (10, 1), (20, None)):
        written(run, step, seed=seed)
        guard.look(step)
    written(run, 10, seed=3)
    assert not guard.look(10)
    assert [line["step"] for line in guard.lines()] == [0, 10]


def test_images_without_classes_are_measured_by_locality(classes: Path, make_folder: MakeFolder) -> None:
    plain = make_folder(*(f"{index}.png" for index in range(4)), name="plain")
    each = [watched("folder", str(path), open_source(str(path))) for path in (plain, classes)]
    assert [one.how for one in each] == ["locality", "knn"]
    assert -100 < each[0].measure(vit()) < 100


@pytest.mark.slow
def test_an_adaptation_ends_with_a_table_and_does_not_begin_again(
    classes: Path, model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = {
        "from_": str(model),
        "data": str(classes),
        "retain": str(classes),
        "scratch": model,
        "out": tmp_path / "run",
    }
    for _ in range(2):
        adapt.adapt(**words, heads=2, steps=2, allowed=100, settings=FEW)  # type: ignore[arg-type]
        run = RunFolder(tmp_path / "run")
        assert run.steps() == [0, 1, 2, 3, 4]
        assert [line["step"] for line in read_jsonl(run.path / "guard.jsonl")] == [0, 3, 4]
        rows = json.loads((run.path / "adapt.json").read_text())["rows"]
        assert list(rows) == ["original", "adapted", "from scratch"]
        assert rows["original"]["folder"] == rows["original"]["retained"] == rows["from scratch"]["folder"]
        assert (run.path / "report.html").exists()
    said = capfd.readouterr()
    assert "original" in said.out
    assert "heads: " in said.err
    assert "all 4 steps are done" in said.err


def test_a_run_that_has_lost_too_much_ends_and_goes_back(
    photos: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    numbers = iter((50.0, 51.0, 47.0))  # of the original, and of steps 2 and 3
    monkeypatch.setattr(Watched, "measure", lambda *_: next(numbers))
    run = RunFolder(tmp_path / "run")
    for _ in range(2):  # the second time nothing is trained or measured
        adapt.adapt(from_=str(model), data=str(photos), out=run.path, heads=1, steps=9, settings=FEW)
        assert run.steps() == [0, 1, 2, 3]
        assert (run.path / "model.safetensors").read_bytes() == (run.checkpoint(2) / "model.safetensors").read_bytes()
    said = capfd.readouterr().err
    assert "fell from 50.0 to 47.0, by more than 2: stopped at step 3; published is the teacher of step 2" in said


def test_a_run_is_begun_with_at_a_step_and_again_at_that_one(photos: Path, tmp_path: Path) -> None:

    first, run = tmp_path / "first", RunFolder(tmp_path / "run")
    engine.pretrain(config(photos, steps=2), first)
    assert adapt._begun_with(str(first), run) == str(first / "checkpoints" / "2")
    assert adapt._begun_with(str(first / "model.safetensors"), run) == str(first / "model.safetensors")
    shutil.copyfile(first / "checkpoints" / "0" / "model.safetensors", first / "model.safetensors")
    assert adapt._begun_with(str(first), run) == str(first / "checkpoints" / "0")  # what it has published
