"""Steps of 8 bits are chosen by the images of the user and judged by others of them."""

from pathlib import Path

import numpy
import onnx as format
import pytest
import torch
from PIL import Image

from dinokit.core.messages import UserError
from dinokit.exports import onnx, openvino
from dinokit.exports.calibration import halves, photos_of
from dinokit.exports.outputs import Outputs, about
from dinokit.exports.parity import compare
from tests.exports.conftest import network


@pytest.fixture(scope="module")
def pile(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("pile")
    draw = numpy.random.default_rng(0)
    for number in range(8):
        small = Image.fromarray(draw.integers(0, 256, (5, 6, 3), dtype=numpy.uint8))
        small.resize((40, 30), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    (folder / "bad.png").write_bytes(b"no image")
    return str(folder)


def test_images_come_as_the_model_sees_them_and_some_choose_nothing(pile: str) -> None:
    backbone = network("dinov2")
    told = about(backbone, ("cls",), model="m", dynamic=True, precision="int8")
    photos = photos_of(pile, backbone, told)
    assert photos.shape == (8, 3, 16, 16)  # the unreadable one is passed over
    assert torch.equal(photos[3:4], backbone.transform(f"{pile}/3.png"))
    chosen, judges = halves(photos)
    assert (len(chosen), len(judges)) == (6, 2)
    assert torch.equal(judges, photos[[2, 6]])  # evenly spaced, for a folder may be sorted by class
    assert torch.equal(chosen, photos[[0, 1, 3, 4, 5, 7]])


def test_too_few_images_are_one_line(tmp_path: Path) -> None:
    for number in range(3):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number}.png")
    told = about(network("dinov2"), ("cls",), model="m", dynamic=True, precision="int8")
    with pytest.raises(UserError, match="at least 4 images, of which 2 are compared"):
        photos_of(str(tmp_path), network("dinov2"), told)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dinov3", "convnext"])
def test_onnx_holds_weights_of_8_bits_and_is_near(name: str, pile: str, tmp_path: Path) -> None:
    backbone = network(name)
    told = about(backbone, ("cls", "patches"), model="m", dynamic=True, precision="int8")
    chosen, judges = halves(photos_of(pile, backbone, told))
    onnx.write(Outputs(backbone, told.outputs).eval(), told, tmp_path / "a.onnx", photos=chosen)
    weights = format.load(tmp_path / "a.onnx").graph.initializer
    held = [each for each in weights if each.data_type == format.TensorProto.INT8 and len(each.dims) > 1]
    assert len(held) >= (5 if name == "dinov3" else 4)  # patches, qkv, out, two of the feed-forward network
    read, run = onnx.opened(tmp_path / "a.onnx")
    assert read == told
    rows = compare(run, Outputs(backbone, told.outputs), told, photos=judges)
    assert all(row.holds for row in rows), rows
    assert max(row.error for row in rows) > 1e-4


@pytest.mark.slow
def test_openvino_holds_weights_of_8_bits_and_is_near(pile: str, tmp_path: Path) -> None:
    backbone = network("dinov2")
    told = about(backbone, ("cls", "patches"), model="m", dynamic=True, precision="int8")
    chosen, judges = halves(photos_of(pile, backbone, told))
    openvino.write(Outputs(backbone, told.outputs).eval(), told, tmp_path / "a.xml", photos=chosen)
    assert 'element_type="i8"' in (tmp_path / "a.xml").read_text()
    read, run = openvino.opened(tmp_path / "a.xml")
    rows = compare(run, Outputs(backbone, read.outputs), read, photos=judges)
    assert all(row.holds for row in rows), rows
    assert max(row.error for row in rows) > 1e-4
