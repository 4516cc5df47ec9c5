"""From masks to pictures: evaluate --save, then predict; or predict from a few masks at once."""

from pathlib import Path

import numpy
import pytest
from PIL import Image
from safetensors.torch import save_file

from dinokit import cli
from dinokit.checkpoints.load import header
from tests.conftest import ARCHITECTURE, MakeVit
from tests.evaluation.dense_data import squares


def run(*words: object) -> int:
    return cli.run([str(word) for word in words])


@pytest.fixture
def model(tmp_path: Path, make_vit: MakeVit) -> Path:
    backbone, path = make_vit(), tmp_path / "model.safetensors"
    save_file(backbone.state_dict(), path, header(ARCHITECTURE, backbone.pixels, step=0))
    return path


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
