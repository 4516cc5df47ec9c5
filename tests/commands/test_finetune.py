"""From labels to a network of one's own: finetune, then evaluate and predict with what it wrote."""

import json
from pathlib import Path

import numpy
import pytest
from PIL import Image

import dinokit
from dinokit import cli
from dinokit.core.messages import UserError
from dinokit.evaluation import base
from tests.conftest import MakeFolder
from tests.evaluation.dense_data import squares
from tests.evaluation.test_depth import bright_is_far

MASKS = ("--frozen.iterations", "20", "--frozen.warmup", "2", "--frozen.batch_size", "2", "--frozen.size", "24")


def run(*words: object) -> int:
    return cli.run([str(word) for word in words])


def test_masks_are_learnt_by_the_whole_network(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = squares(tmp_path / "data"), tmp_path / "out"
    words = ("finetune", "--model", model, "--data", data, "--out", out, *MASKS, "--frozen.lr", "[1e-3]")
    words = (*words, "--iterations", 40, "--batch_size", 4, "--lr", 0.01, "--warmup", 0)
    assert run(*words) == 0
    kept = json.loads((out / "finetune.json").read_text())
    frozen, tuned = (kept["results"][name] for name in ("frozen", "finetuned"))
    assert tuned["mIoU"] > frozen["mIoU"] + 5
    assert tuned["images"] == frozen["images"] == 3
    assert "finetuned" in capsys.readouterr().out
    again = dinokit.evaluate("segmentation", model=str(out), data=str(data), head=str(out / "head"))
    assert again[str(out)] == tuned
    assert run("predict", "--head", out / "head", "--data", data / "val" / "images", "--out", tmp_path / "masks") == 0
    truth = numpy.asarray(Image.open(data / "val" / "masks" / "0.png"))
    found = numpy.asarray(Image.open(tmp_path / "masks" / "masks" / "0.png"))
    assert (found == truth)[truth < 255].mean() > 0.85
    assert run(*words) == 0  # done: nothing is trained again
    assert "continuing after step 40" in capsys.readouterr().err
    assert json.loads((out / "finetune.json").read_text()) == kept
    with pytest.raises(UserError, match="whose weights are not those of"):
        dinokit.evaluate("segmentation", model=str(model), data=str(data), head=str(out / "head"))


def test_classes_are_measured_on_the_same_images_before_and_after(
    tmp_path: Path, model: Path, make_folder: MakeFolder
) -> None:
    data, out = make_folder(*(f"{label}/{number}.png" for label in "abc" for number in range(10))), tmp_path / "out"
    found = dinokit.finetune(
        model=str(model), data=str(data), out=out, iterations=3, batch_size=8, settings={"frozen.iterations": 20}
    )
    # without splits a fifth of each class is set aside for both
    assert (found["frozen"]["test"], found["finetuned"]["test"]) == (6, 6)
    assert found["finetuned"]["top1"] == 100
    frozen = dinokit.evaluate("linear", model=str(model), data=str(data), iterations=20, baselines=False)
    assert frozen[str(model)]["top1"] == found["frozen"]["top1"]
    assert run("predict", "--head", out / "head", "--data", data, "--out", tmp_path / "classes") == 0


def test_both_are_measured_alike_whatever_the_settings(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bright_is_far(tmp_path / "data")
    frozen = {"frozen.units": 250, "frozen.low": 0.5, "frozen.high": 20.0, "frozen.limit": 2, "frozen.iterations": 3}
    settings = frozen | {"frozen.window": [16, 16]}
    nothing = {"iterations": 1, "batch_size": 1, "lr": 1e-9, "weight_decay": 0.0}  # is learnt
    found = dinokit.finetune(model=str(model), data=str(data), out=tmp_path / "out", settings=settings, **nothing)
    assert found["finetuned"] == pytest.approx(found["frozen"], rel=1e-2)
    many = {"settings": {"frozen.iterations": 3, "frozen.batch_size": 2, "frozen.size": 24}, **nothing}
    monkeypatch.setattr(base, "IMAGES", (2, 2))
    squares(tmp_path / "many", train=2, val=4)  # more than the quick protocol measures
    found = dinokit.finetune(model=str(model), data=str(tmp_path / "many"), out=tmp_path / "other", **many)
    assert found["finetuned"]["images"] == found["frozen"]["images"]


def test_a_model_that_is_there_is_not_written_over(tmp_path: Path, model: Path, make_folder: MakeFolder) -> None:
    data = make_folder("a/0.png", "a/1.png", "b/0.png", "b/1.png")
    with pytest.raises(UserError, match="holds another model, which would be written over; give another --out"):
        dinokit.finetune(model=str(model), data=str(data), out=model.parent, task="linear")


def test_mistakes_are_one_line(tmp_path: Path, model: Path, make_folder: MakeFolder) -> None:
    words = {"model": str(model), "out": tmp_path / "out"}
    empty = make_folder("images/0.png", name="unlabelled")
    with pytest.raises(UserError, match=r"expected folders of two classes or more, .*: it holds none of these$"):
        dinokit.finetune(data=str(empty), **words)
    with pytest.raises(UserError, match="unknown task 'foo'; known are: depth, linear, segmentation"):
        dinokit.finetune(data=str(empty), task="foo", **words)
    data = make_folder("a/0.png", "a/1.png", "b/0.png", "b/1.png")
    with pytest.raises(UserError, match="--task knn is not trained with the whole network"):
        dinokit.finetune(data=str(data), task="knn", **words)
    with pytest.raises(UserError, match="shots, head and protocol knn train no head"):
        dinokit.finetune(data=str(data), task="linear", settings={"frozen.shots": 1}, **words)
