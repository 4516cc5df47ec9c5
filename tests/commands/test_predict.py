"""From masks to pictures: evaluate --save, then predict; or predict from a few masks at once."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
from PIL import Image
from safetensors.torch import save_file

import dinokit
from dinokit import cli
from dinokit.checkpoints.store import header
from dinokit.commands.predict import _how_good
from dinokit.core.messages import UserError
from dinokit.dense.detr.recipe import RECIPES
from tests.conftest import MakeFolder, MakeVit
from tests.evaluation.dense_data import squares
from tests.evaluation.test_families import of_timm
from tests.vits import ARCHITECTURE


def run(*words: object) -> int:
    return cli.run([str(word) for word in words])


def test_a_head_that_evaluate_saved_names_every_pixel(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, save = squares(tmp_path / "data"), tmp_path / "save"
    quick = ("--iterations", "40", "--warmup", "2", "--batch_size", "2", "--lr", "[0.05]", "--size", "24")
    assert run("evaluate", "segmentation", "--model", model, "--data", data, "--save", save, *quick) == 0
    table = capsys.readouterr().out
    assert all(name in table for name in ("mIoU", "untrained", "raw pixels"))
    words = ("predict", "--head", save / "head", "--data", data / "val" / "images", "--out", tmp_path / "out")
    assert run(*words) == 0
    right = []
    for path in (data / "val" / "masks").iterdir():
        truth = numpy.asarray(Image.open(path))
        right.append((numpy.asarray(Image.open(tmp_path / "out" / "masks" / path.name)) == truth)[truth < 255].mean())
    assert numpy.mean(right) > 0.9
    assert run(*words) == 0
    assert "0 images written · 3 were there" in capsys.readouterr().err


def test_a_head_finds_a_model_of_another_library_from_any_folder(
    tmp_path: Path, make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "peer").mkdir()
    peer = of_timm(tmp_path / "peer")
    data = make_folder(*(f"{label}/{number}.png" for label in "ab" for number in range(8)))
    words = ("--model", peer.name, "--data", data, "--save", tmp_path / "save", "--iterations", "20")
    monkeypatch.chdir(tmp_path)
    assert run("evaluate", "linear", *words, "--no-baselines") == 0
    monkeypatch.chdir(tmp_path / "peer")
    assert run("predict", "--head", tmp_path / "save" / "head", "--data", data, "--out", tmp_path / "out") == 0
    assert (tmp_path / "out" / "classes.csv").read_text().count("\n") == 17
    assert dinokit.load_classifier(peer, tmp_path / "save" / "head").linear.out_features == 2


def test_a_few_masks_are_enough_to_find_the_foreground(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = squares(tmp_path / "data", train=3, splits=False)
    words = ("--train-masks", data, "--data", data / "images", "--out", tmp_path / "out", "--model", model)
    assert run("predict", *words, "--size", "24", "--c", "[1.0]") == 0
    assert "average precision 100.0 %" in capsys.readouterr().err
    found = numpy.asarray(Image.open(tmp_path / "out" / "probabilities" / "0.png"))
    truth = numpy.asarray(Image.open(data / "masks" / "0.png"))
    assert found[truth == 0].mean() < 60
    assert (tmp_path / "out" / "head" / "head.json").is_file()


@pytest.mark.parametrize("held_out", [pytest.param(False, marks=pytest.mark.slow), True])
def test_from_a_few_boxes_to_the_head_the_page_and_the_pictures(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], held_out: bool
) -> None:
    usual = RECIPES["few"]
    monkeypatch.setitem(RECIPES, "few", replace(usual, dim=64, hidden=64, encoder=1, decoder=1, pictures=4))
    data = squares(tmp_path / "data", train=2, splits=False)
    for split in ("train", "val") if held_out else ("",):
        shutil.copytree(data / "images", tmp_path / "few" / "images" / split, dirs_exist_ok=True)
        (tmp_path / "few" / "labels" / split).mkdir(parents=True)
        (tmp_path / "few" / "labels" / split / "0.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "few" / "classes.txt").write_text("thing\n")
    words = ("--train-on", tmp_path / "few", "--data", data / "images", "--out", tmp_path / "out", "--model", model)
    few = ("--size", "24", "--iterations", "2", "--batch_size", "2", "--queries", "4")
    assert run("predict", *words, *few) == 0
    said = capsys.readouterr().err
    assert ("by heart" in said) is not held_out
    assert ("on 2 images of val" in said) is held_out
    assert len([*tmp_path.glob("out/training/pieces/*.png")]) == 2
    (page,) = tmp_path.glob("out/*/index.html")
    assert ("by heart" in page.read_text()) is not held_out
    kept = json.loads((tmp_path / "out" / "training" / "features" / "features.json").read_text())
    assert kept["view"] == "View(size=24, longest=32, windows=1)"  # a transformer has no stages
    about = json.loads((tmp_path / "out" / "head" / "head.json").read_text())
    assert about["details"]["view"] == {"size": 24, "longest": 32, "windows": 1}
    found = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert found["categories"] == [{"id": 1, "name": "thing"}]
    assert (tmp_path / "out" / "pictures" / "0.png").is_file()
    monkeypatch.chdir(tmp_path)
    assert run("predict", "--train-on", "few", *words[2:4], "--out", "out", *words[6:], *few) == 0
    assert "0 images written · 2 were there" in capsys.readouterr().err
    assert run("predict", "--head", tmp_path / "out" / "head", *words[2:4], "--out", tmp_path / "again") == 0
    assert json.loads((tmp_path / "again" / "detections.json").read_text()) == found
    assert run("predict", *words, *few, "--lr", "1e-3") == 2
    assert "was made with other" in capsys.readouterr().err


def test_of_a_score_by_which_nothing_is_right_the_opposite_is_not_said() -> None:
    own = {"held_out": True, "split": "val", "least": 0.25}
    for right, why in ((4.0, "by which most is right there"), (0.0, "for want of a right one there the best")):
        _, shown = _how_good({"images": 2.0, "AP": 0.0, "AP50": right}, own)
        assert shown == f"pictures show boxes with a score of at least 0.25, {why}"


def test_a_folder_holds_the_evaluation_of_one_model(
    tmp_path: Path, model: Path, make_vit: MakeVit, make_folder: MakeFolder
) -> None:
    data = make_folder(*(f"{label}/{number}.png" for label in "ab" for number in range(3)))
    words = ("evaluate", "knn", "--data", data, "--save", tmp_path / "save", "--k", "[1]", "--no-baselines")
    assert run(*words, "--model", model) == 0
    first = (tmp_path / "save" / "knn.json").read_text()
    other = tmp_path / "other.safetensors"
    save_file(make_vit(seed=1).state_dict(), other, header(ARCHITECTURE, make_vit().pixels, step=0))
    assert run(*words, "--model", model) == 0
    assert run(*words, "--model", other) == 2
    assert run(*words[:-2], "[2]", "--no-baselines", "--model", model) == 2
    assert (tmp_path / "save" / "knn.json").read_text() == first


def test_python_takes_paths_and_settings_by_keyword(
    model: Path, make_folder: MakeFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_folder(*(f"{label}/{number}.png" for label in "ab" for number in range(3)))
    found = dinokit.evaluate("knn", model=model, data=data, k=[2], baselines=False)
    assert set(found[str(model)]) == {"top1@2", "top5@2", "best", "best_k", "queries", "gallery"}
    shown = capsys.readouterr().out
    assert " %" in shown
    assert "6.00" not in shown  # counts are whole
    with pytest.raises(UserError, match="unknown setting 'kk'"):
        dinokit.evaluate("knn", model=model, data=data, kk=[2], baselines=False)


@pytest.mark.parametrize("words", [("linear", "--iterations", "60"), ("attentive", "--passes", "60")])
def test_a_classifier_that_evaluate_saved_names_every_image(
    words: tuple[str, ...], tmp_path: Path, model: Path, make_folder: MakeFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_folder(
        *(f"{split}/{label}/{i}.png" for split in ("train", "test") for label in "abc" for i in range(5))
    )
    command = ("evaluate", *words, "--model", model, "--data", data, "--save", tmp_path / "save")
    assert run(*command) == 0
    assert run(*command) == 0  # finished, and the same
    table = capsys.readouterr().out
    assert all(name in table for name in ("top1", "untrained", "raw pixels"))
    command = ("predict", "--head", tmp_path / "save" / "head", "--data", data, "--split", "test")
    assert run(*command, "--out", tmp_path / "out") == 0
    lines = (tmp_path / "out" / "classes.csv").read_text().splitlines()
    assert lines[0] == "key,class,probability,class_2,probability_2,class_3,probability_3"
    rows = [line.split(",") for line in lines[1:]]
    assert len(rows) == 15
    assert all(row[0].split("/")[0] == row[1] for row in rows)
    assert run(*command, "--out", tmp_path / "out") == 0


def test_further_sets_are_given_word_by_word_or_with_commas(
    tmp_path: Path, model: Path, make_folder: MakeFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_folder(*(f"{split}/{label}/{i}.png" for split in ("train", "test") for label in "ab" for i in range(4)))
    first, second = (make_folder("a/0.png", "b/0.png", name=name) for name in ("one", "two"))
    words = ("evaluate", "linear", "--model", model, "--data", data, "--iterations", "5", "--no-baselines")
    tables = []
    for tests in (("--tests", first, second), ("--tests", f"{first},{second}"), ("--tests", f"[{first}, {second}]")):
        assert run(*words, *tests) == 0
        tables.append(capsys.readouterr().out)
    assert "top1/one" in tables[0]
    assert "top1/two" in tables[0]
    assert tables[0] == tables[1] == tables[2]
    assert run("evaluate", "knn", "--model", model, "--data", data, "--tests", first) == 2
    assert "unknown setting 'tests'" in capsys.readouterr().err
