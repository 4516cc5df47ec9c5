"""Where a marked patch of an image is found in others: the best patch of each, the images in the order of it.

A row per image: the query with its mark beside the image and the cosines of its patches with the marked one, in which
the best patch is framed. The others are candidates of a search by image (search/), so what is small in an image that
is otherwise unlike is not found; more candidates find more, and take longer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy
from jaxtyping import Float64
from torch import Tensor

from dinokit.looks.field import Field
from dinokit.looks.sheet import Cell, Row, photo
from dinokit.looks.similarity import MARK, coloured, cosines, scale


@dataclass(frozen=True)
class Located:
    """The patch of an image that is most like the marked one."""

    image: int  # which of those that were looked into
    patch: tuple[int, int]  # row, column
    cosine: float
    at: tuple[float, float]  # the centre of the patch, in pixels of the image as it lies there
    size: tuple[int, int]  # width and height of the image


def located(query: Field, mark: tuple[int, int], image: int, other: Field) -> Located:
    """Return the patch of an image that is most like a patch of the query.

    Args:
        image: what the image is called in what is returned.
    """
    found = cosines(query, mark, other)
    rows, columns = found.shape
    row, column = divmod(int(found.argmax()), columns)
    width, height = other.size
    at = (column + 0.5) / columns * width, (row + 0.5) / rows * height
    return Located(image, (row, column), float(found.max()), at, other.size)


def ordered(found: Sequence[Located]) -> list[Located]:
    """Put images in the order of their best patch; of equal ones the one that was nearer as a whole comes first."""
    return sorted(found, key=lambda each: -each.cosine)


def rows(query: Field, mark: tuple[int, int], others: Sequence[tuple[Located, Field]]) -> list[Row]:
    """Draw the query, what was found, and how alike its patches are."""
    maps = [cosines(query, mark, other) for _, other in others]
    low, high = scale([cosines(query, mark, query), *maps])
    here = photo(query)
    drawn = []
    for (found, other), each in zip(others, maps, strict=True):
        there = photo(other)
        colours = _marked(each, (low, high), found.patch)
        drawn.append(
            [
                Cell(query.name, _with_mark(query, mark), here.size),
                Cell(f"{other.name}: {found.cosine:.3f}", _with_mark(other, found.patch), there.size),
                Cell(f"cosines {low:.2f} to {high:.2f}", colours, there.size),
            ]
        )
    return drawn


def _with_mark(seen: Field, patch: tuple[int, int]) -> numpy.ndarray:
    """Return the picture of a field with a frame around a patch."""
    picture = seen.picture.copy()
    side = picture.shape[0] // seen.patches.shape[0]
    width = max(side // 8, 1)
    top, left = (each * side for each in patch)
    inner = picture[top + width : top + side - width, left + width : left + side - width].copy()
    picture[top : top + side, left : left + side] = MARK
    picture[top + width : top + side - width, left + width : left + side - width] = inner
    return picture


def _marked(
    cosines: Float64[Tensor, "rows columns"], shades: tuple[float, float], patch: tuple[int, int]
) -> numpy.ndarray:
    colours = coloured(cosines, shades)
    colours[patch] = MARK
    return colours
