"""Some images of a source on one sheet."""

from pathlib import Path

import numpy
import pytest
from PIL import Image

from dinokit.core.messages import UserError
from dinokit.sources.source import open_source
from dinokit.visuals.contact import contact_sheet


def test_every_image_has_a_tile_as_it_is_and_what_cannot_be_read_is_grey(tmp_path: Path) -> None:
    Image.new("RGB", (10, 20), "red").save(tmp_path / "a.png")
    Image.new("RGB", (400, 200), "blue").save(tmp_path / "b.png")
    (tmp_path / "c.png").write_bytes(b"none")
    page = numpy.asarray(contact_sheet(open_source(str(tmp_path)), columns=2, side=40))
    assert page.shape == (40 + 14 + 6 + 40 + 14, 40 + 6 + 40, 3)  # two rows of two, captions, gaps
    red = (page == (255, 0, 0)).all(axis=-1)
    assert red.sum() == 20 * 40  # grown by 2, its sides in proportion
    assert red[:40, 10:30].all()
    assert (page[10:30, 46:] == (0, 0, 255)).all()  # the long side fills the tile
    assert (page[60:100, :40] == page[60, 0]).all()
    assert page[60, 0].min() == page[60, 0].max() > 200


def test_what_is_known_of_an_image_stands_below_it(tmp_path: Path) -> None:
    for name in ("a/x.png", "b/y.png"):
        (tmp_path / name).parent.mkdir()
        Image.new("RGB", (8, 8), "red").save(tmp_path / name)
    of_classes = numpy.asarray(contact_sheet(open_source(str(tmp_path)), side=40))
    of_files = numpy.asarray(contact_sheet(open_source(str(tmp_path), labels=False).subset([0, 1]), side=40))
    assert (of_classes[:40] == of_files[:40]).all()
    assert (of_classes[40:] < 128).any()
    assert (of_classes[40:] != of_files[40:]).any()


def test_of_no_image_there_is_no_sheet(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="expected images in .* to show, got none"):
        contact_sheet(open_source(str(tmp_path)).subset([]))
