"""A figure shows what a sheet shows, with text that is text, and leaves no trace."""

from io import BytesIO
from pathlib import Path

import matplotlib
import numpy
from PIL import Image

from dinokit.looks.figure import LINE, figure, save
from dinokit.looks.sheet import Cell


def cells() -> list[list[Cell]]:
    draw = numpy.random.default_rng(0)
    small = draw.integers(0, 256, (3, 4, 3), dtype=numpy.uint8)
    return [[Cell("a.png", small, (80, 60)), Cell("$1 & <x>", small[::-1], (80, 60))]]


def test_every_patch_lies_where_the_sheet_has_it(tmp_path: Path) -> None:
    save(figure(cells()), tmp_path / "a.png", ending=".png")
    with Image.open(tmp_path / "a.png") as page:
        found = numpy.asarray(page.convert("RGB"))
    with Image.open(BytesIO(figure(cells())._repr_png_())) as page:  # what a notebook asks for
        assert numpy.array_equal(page.convert("RGB"), found)
    assert found.shape == (60 + LINE, 170, 3)
    for column, cell in ((0, cells()[0][0]), (90, cells()[0][1])):
        assert numpy.array_equal(found[LINE + 10 :: 20, column + 10 : column + 80 : 20], cell.colours)


def test_text_stays_text_and_the_same_figure_is_the_same_file(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    for name in ("a.svg", "b.svg", "a.pdf", "b.pdf"):
        save(figure(cells()), tmp_path / name, ending=name[1:])
    drawn = (tmp_path / "a.svg").read_text()
    assert ">$1 &amp; &lt;x&gt;</text>" in drawn
    assert b"/FontFile2" in (tmp_path / "a.pdf").read_bytes()  # letters of a TrueType font, not curves
    for ending in ("svg", "pdf"):
        assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()
    assert dict(matplotlib.rcParams) == before
