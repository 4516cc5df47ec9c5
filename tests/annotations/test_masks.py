"""A mask is what its picture shows, whatever the file format or an optimiser made of it."""

from pathlib import Path

import numpy
import pytest
import tifffile
from PIL import Image

from dinokit.annotations.masks import IGNORED, palette, read_mask
from dinokit.core.errors import UserError

VALUES = numpy.array([[0, 1, 2], [15, 255, 1]], dtype=numpy.uint8)


def renumbered(values: numpy.ndarray, colours: list[tuple[int, int, int]]) -> Image.Image:
    """Keep the picture and count the colours that occur anew, from the last, as an optimiser may."""
    used = numpy.unique(values)[::-1]
    image = Image.fromarray(numpy.searchsorted(-used.astype(int), -values.astype(int)).astype(numpy.uint8))
    image.putpalette([channel for value in used for channel in colours[value]])
    return image


@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "gif", "npy", "webp"])
def test_gray_values_are_the_same_in_every_format(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"m.{ending}"
    if ending == "npy":
        numpy.save(path, VALUES.astype(numpy.int64))
    else:
        Image.fromarray(VALUES).save(path, lossless=True)
    assert (read_mask(path).values == VALUES).all()


def test_white_is_255_in_every_depth(tmp_path: Path) -> None:
    there = numpy.array([[False, True]])
    Image.fromarray(there).save(tmp_path / "1.png")
    numpy.save(tmp_path / "2.npy", there)
    Image.fromarray(there.astype(numpy.uint16) * 65535).save(tmp_path / "3.png")
    black_white = Image.fromarray(there.astype(numpy.uint8))
    black_white.putpalette([0, 0, 0, 255, 255, 255])
    black_white.save(tmp_path / "4.png")
    inverted = Image.fromarray((~there).astype(numpy.uint8))
    inverted.putpalette([255, 255, 255, 0, 0, 0])
    inverted.save(tmp_path / "5.gif")
    for path in sorted(tmp_path.iterdir()):
        assert read_mask(path).values.tolist() == [[0, IGNORED]], path


def test_what_is_no_number_does_not_count(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", numpy.array([[-1, 3]], dtype=numpy.int16))
    tifffile.imwrite(tmp_path / "b.tif", numpy.array([[numpy.nan, 3]], dtype=numpy.float32))
    for name in ("a.tif", "b.tif"):
        assert read_mask(tmp_path / name).values.tolist() == [[IGNORED, 3]]
    tifffile.imwrite(tmp_path / "c.tif", numpy.array([[0.5, 3]], dtype=numpy.float32))
    with pytest.raises(UserError, match="fractions, expected whole numbers"):
        read_mask(tmp_path / "c.tif")


@pytest.mark.parametrize("colours", ["voc", "youtube"])
def test_a_renumbered_palette_of_a_known_set_is_read_by_colour(colours: str, tmp_path: Path) -> None:
    known = list(palette(256))
    if colours == "youtube":
        known[:4] = [(0, 0, 0), (236, 95, 103), (249, 145, 87), (250, 200, 99)]
    values = numpy.array([[0, 1, 2], [3, 255, 1]]) if colours == "voc" else numpy.array([[0, 1, 2], [3, 3, 1]])
    renumbered(values, known).save(tmp_path / "m.png")
    assert (read_mask(tmp_path / "m.png").values == values).all()
    renumbered(values, [(value // 2, 9, value // 3) for value in range(256)]).save(tmp_path / "own.png")
    assert not (read_mask(tmp_path / "own.png").values == values).all()  # a palette of one's own counts as it stands


@pytest.mark.parametrize(
    ("grays", "expected"),
    [([0, 1, 2], [0, 1, 2]), ([0, 5, 100], [0, 5, 100]), ([0, 7, 255], [0, 7, 255]), ([0, 128, 255], [2, 1, 0])],
)
def test_grays_of_a_palette_are_numbers_unless_a_person_chose_them(
    grays: list[int], expected: list[int], tmp_path: Path
) -> None:
    image = Image.fromarray(numpy.array([[2, 1, 0]], dtype=numpy.uint8))
    image.putpalette([level for gray in reversed(grays) for level in (gray, gray, gray)])
    image.save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png").values.tolist() == [expected]


def test_colours_of_a_known_set_have_its_numbers(tmp_path: Path) -> None:
    Image.fromarray(numpy.array(palette(256), dtype=numpy.uint8)[VALUES]).save(tmp_path / "m.png")
    mask = read_mask(tmp_path / "m.png")
    assert mask.coloured
    assert (mask.numbers(tmp_path) == VALUES).all()
    Image.new("RGB", (2, 2), (1, 2, 3)).save(tmp_path / "m.png")
    with pytest.raises(UserError, match="holds colours; expected a number in every pixel"):
        read_mask(tmp_path / "m.png").numbers(tmp_path)


def test_transparency_hides_and_is_the_mask_where_there_is_one_colour(tmp_path: Path) -> None:
    pixels = numpy.array([[[9, 8, 7, 255], [5, 5, 5, 0]]], dtype=numpy.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert read_mask(tmp_path / "a.png").values.tolist() == [[0x090807, 0]]
    Image.fromarray(numpy.array([[[255, 255], [255, 0]]], dtype=numpy.uint8), mode="LA").save(tmp_path / "b.png")
    assert read_mask(tmp_path / "b.png").values.tolist() == [[255, 0]]
    pixels[..., 3] = 255
    Image.fromarray(pixels).save(tmp_path / "c.png")
    assert read_mask(tmp_path / "c.png").values.tolist() == [[0x090807, 0x050505]]


def test_a_mask_is_turned_as_an_image_is(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(VALUES).save(tmp_path / "m.png", exif=exif)
    assert (read_mask(tmp_path / "m.png").values == numpy.rot90(VALUES, -1)).all()


@pytest.mark.parametrize(
    "content", [b"", b"\x93NUMPY\x01\x00\x76\x00broken", b"PK\x03\x04nothing", "complex64", "record"]
)
def test_what_is_no_mask_is_said_in_one_line(content: bytes | str, tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        numpy.save(path, numpy.zeros((2, 2), dtype=[("a", int)] if content == "record" else content))
    with pytest.raises(UserError, match="cannot read the mask .*a.npy") as caught:
        read_mask(path)
    assert "\n" not in str(caught.value)
