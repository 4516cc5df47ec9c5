"""Pictures and maps on one sheet: rows of cells, each with a line of text above it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from dinokit.looks.field import Field, Map

GAP, LINE = 8, 16  # pixels between pictures, and of a line of text


@dataclass(frozen=True)
class Cell:
    """A picture, or colours of patches, on a sheet."""

    caption: str
    colours: UInt8[numpy.ndarray, "rows columns 3"]
    size: tuple[int, int]  # width and height to which it is enlarged, in pixels


Row = list[Cell]


def photo(seen: Field) -> Cell:
    """Return the picture of a field, as large as the network saw it."""
    picture = seen.picture
    return Cell(seen.name, picture, (picture.shape[1], picture.shape[0]))


def rows_of(fields: Sequence[Field], maps: Mapping[str, Sequence[Sequence[Map]]]) -> list[Row]:
    """Return a row per image: its picture, then what every model shows of it, as large as the picture.

    Args:
        maps: name of a model, which stands above its columns -> maps of every image.
    """
    rows = []
    for number, each in enumerate(fields):
        first = photo(each)
        cells = [
            Cell(_title(model, caption, maps), colours, first.size)
            for model, drawn in maps.items()
            for caption, colours in drawn[number]
        ]
        rows.append([first, *cells])
    return rows


def sheet(rows: Sequence[Row]) -> Image.Image:
    """Put rows together."""
    widths = [sum(cell.size[0] + GAP for cell in row) - GAP for row in rows]
    heights = [max(cell.size[1] for cell in row) + LINE + GAP for row in rows]
    page = Image.new("RGB", (max(widths), sum(heights) - GAP), "white")
    pen, top = ImageDraw.Draw(page), 0
    for row, height in zip(rows, heights):
        left = 0
        for cell in row:
            word, room = latin(cell.caption), cell.size[0]
            short = word if pen.textlength(word) <= room else "..." + word[-max(room // 7 - 3, 1) :]
            pen.text((left, top + 2), short, fill="black")
            page.paste(Image.fromarray(cell.colours).resize(cell.size, Image.Resampling.NEAREST), (left, top + LINE))
            left += room + GAP
        top += height
    return page


def latin(text: str) -> str:
    """Return what the built-in font can write."""
    return text.encode("latin-1", "replace").decode("latin-1")


def _title(model: str, caption: str, maps: Mapping[str, object]) -> str:
    """Say whose map it is, where there are several models."""
    return " · ".join(part for part in (model if len(maps) > 1 or not caption else "", caption) if part)
