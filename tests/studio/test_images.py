"""Images by their ids: what is refused before it is decoded, and pictures of a bounded size."""

import io
import struct
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

from dinokit.core.messages import BadImage
from dinokit.sources.source import in_memory, open_source
from dinokit.studio import images
from dinokit.studio.images import Images, Unknown


def pixels(width: int, height: int) -> torch.Tensor:
    return torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("size", "small"),
    [((400, 200), (320, 160)), ((100, 50), (100, 50)), ((4000, 200), (640, 32)), ((3000, 1), (640, 1))],
)
def test_a_picture_of_the_list_is_small_whatever_its_shape(size: tuple[int, int], small: tuple[int, int]) -> None:
    found = Images(in_memory(pixels(*size)))
    assert Image.open(io.BytesIO(found.thumb("0"))).size == small


def test_names_that_are_no_text_can_be_sent(tmp_path: Path) -> None:
    (tmp_path / "a\udcff.png").write_bytes(encoded())
    assert Images(open_source(str(tmp_path))).about("0") == {"id": "0", "name": "a\\udcff.png"}


def encoded(size: tuple[int, int] = (4, 4)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size).save(file, "PNG")
    return file.getvalue()


def test_of_uploads_so_many_bytes_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    found, data = Images(in_memory(pixels(4, 4))), encoded()
    monkeypatch.setattr(images, "UPLOADED", 2 * len(data))
    ids = [found.add(data, "x")["id"] for _ in range(3)]
    assert ids == ["u1", "u2", "u3"]
    with pytest.raises(Unknown, match="the upload u1 is no longer kept"):
        found.read("u1")
    assert found.read("u3").shape == (3, 4, 4)


def test_pixels_are_counted_in_the_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "PIXELS", 100)
    found = Images(in_memory(pixels(4, 4)))
    found.add(encoded((10, 10)), "x")
    for data in (encoded((11, 10)), tiff(1000, 1000)):
        with pytest.raises(BadImage, match="expected at most 100 pixels, the header says 1"):
            found.add(data, "x")


def tiff(width: int, height: int) -> bytes:
    """A TIFF of floats with three channels, which Pillow does not open, that states a size and holds nothing."""
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 32), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8)]
    tags += [(277, 3, 1, 5), (278, 4, 1, height), (279, 4, 1, 4), (339, 3, 1, 3)]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\x00" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)


def test_what_a_model_sees_is_kept_exactly_where_it_is_small() -> None:
    found = Images(in_memory(pixels(30, 20)))
    drawn = numpy.asarray(Image.open(io.BytesIO(found.picture("0", patch_size=5, size=20))))
    assert numpy.array_equal(drawn, found.read("0").permute(1, 2, 0).numpy())
