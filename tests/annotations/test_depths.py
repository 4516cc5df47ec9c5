"""Depths in every format mean metres: units that are given hold for all, what was not measured is 0."""

from pathlib import Path

import numpy
import pytest
import tifffile
from PIL import Image

from dinokit.annotations.depths import open_depths, read_numbers
from dinokit.core.messages import UserError

STORED = numpy.array([[1500, 0, 2500]])


def folder(root: Path, depth: str) -> Path:
    for name in ("images", "depth"):
        (root / name).mkdir()
    Image.new("RGB", (3, 1)).save(root / "images" / "1.png")
    return root / "depth" / f"1.{depth}"


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "uint16", "int16", "int32", "uint32"])
def test_a_tiff_of_any_type_is_read_and_its_no_data_is_none(dtype: str, tmp_path: Path) -> None:
    path = folder(tmp_path, "tif")
    extra = [(42113, "s", 0, "2500", False)]  # GDAL's
    tifffile.imwrite(path, STORED.astype(dtype), extratags=extra)
    assert open_depths(str(tmp_path), units=1000.0).read(0)[1].tolist() == [[1.5, 0, 0]]


def test_units_that_are_given_hold_for_floats_too(tmp_path: Path) -> None:
    numpy.save(folder(tmp_path, "npy"), STORED.astype(numpy.float32))
    assert open_depths(str(tmp_path)).read(0)[1].tolist() == [[1500, 0, 2500]]
    assert open_depths(str(tmp_path), units=1000.0).read(0)[1].tolist() == [[1.5, 0, 2.5]]
    assert open_depths(str(tmp_path), units=1.0).read(0)[1].tolist() == [[1500, 0, 2500]]


def test_a_depth_is_turned_as_an_image_is(tmp_path: Path) -> None:
    for dtype in ("uint16", "float16"):
        lying = numpy.arange(6).reshape(2, 3)
        tifffile.imwrite(tmp_path / "1.tif", lying.astype(dtype), extratags=[(274, "H", 1, 6, False)])
        assert read_numbers(tmp_path / "1.tif").tolist() == [[3, 0], [4, 1], [5, 2]]


@pytest.mark.parametrize("kind", ["bool", "complex64", "record", "empty", "colours", "jpeg", "palette"])
def test_what_is_no_depth_is_said_in_one_line(kind: str, tmp_path: Path) -> None:
    picture = Image.new("L", (3, 1))
    path = tmp_path / ("1.png" if kind in ("colours", "jpeg", "palette") else "1.npy")
    if kind in ("bool", "complex64"):
        numpy.save(path, STORED.astype(kind))
    elif kind == "record":
        numpy.save(path, numpy.zeros((1, 3), dtype=[("a", float)]))
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "jpeg":
        picture.save(path, "JPEG")
    else:
        picture.convert("RGB" if kind == "colours" else "P").save(path)
    with pytest.raises(UserError, match="cannot read the depth .*1.") as caught:
        read_numbers(path)
    assert "\n" not in str(caught.value)


def test_depths_out_of_range_are_found_before_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    numpy.save(folder(tmp_path, "npy"), STORED.astype(numpy.float32))
    depths = open_depths(str(tmp_path))
    with pytest.raises(UserError, match=r"no pixel of .* has a depth between 0.001 and 10.0 m; look at units and high"):
        depths.check([0], low=1e-3, high=10.0)
    open_depths(str(tmp_path), units=1000.0).check([0], low=1e-3, high=10.0)
    Image.new("RGB", (3, 1)).save(tmp_path / "images" / "2.png")
    numpy.save(tmp_path / "depth" / "2.npy", numpy.zeros((1, 3)))
    open_depths(str(tmp_path), units=1000.0).check([0, 1], low=1e-3, high=10.0)
    assert "1 of 2 have no pixel that counts" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_depths_are_as_stored_though_white_be_zero(dtype: str, tmp_path: Path) -> None:
    numbers = numpy.array([[150, 0, 30]], dtype=dtype)
    tifffile.imwrite(tmp_path / "1.tif", numbers, photometric="miniswhite", extratags=[(42113, "s", 0, "30", False)])
    assert read_numbers(tmp_path / "1.tif").tolist() == [[150, 0, 0]]
