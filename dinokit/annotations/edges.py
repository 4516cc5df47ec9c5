"""What lies between the flat values or colours of a mask: soft edges, as resizing and smoothing leave them, or classes.

Edges are slopes: nearly every pixel has a darker and a brighter neighbour, and hardly any stands in a square of its
own value. Thin classes are neither between their neighbours nor alone in the set without an area somewhere.
"""

from collections.abc import Iterable, Sequence

import numpy
from jaxtyping import Bool, Integer

Values = Integer[numpy.ndarray, "height width"]
MIDDLE = 64  # a value from here on, alone beside 0, is a kind of white
_NEAR_WHITE = 224  # from here on, resizing may overshoot to 255
_WHITE = 255


def on_slopes(values: Values, found: Sequence[int]) -> int:
    """Count the pixels between 0 and white if none of them are flat and most have a darker and a brighter neighbour.

    Args:
        found: the values that occur, rising.
    """
    levels = numpy.array(found)
    bright = levels[levels >= MIDDLE]
    if not len(bright) or levels[-1] > _WHITE or levels[0] < 0:
        return 0
    counts = numpy.bincount(values.ravel())
    white = int(bright[counts[bright].argmax()])
    if levels[-1] == _WHITE and white < _NEAR_WHITE:
        white = _WHITE
    inner, between = levels[(levels > 0) & (levels < white)], (values > 0) & (values < white)
    count = int(counts[inner].sum())
    flat = numpy.count_nonzero(fills(values) & between[:-1, :-1])
    if not len(inner) or inner[-1] < white // 4 or flat >= count / 5:
        return 0
    padded = numpy.pad(values.astype(numpy.uint8), 1, mode="edge")
    around, middle = numpy.lib.stride_tricks.sliding_window_view(padded, (3, 3))[between], values[between]
    slopes = (around.min(axis=(1, 2)) < middle) & (middle < around.max(axis=(1, 2)))
    return count if 2 * numpy.count_nonzero(slopes) > count else 0


def fills(values: Values) -> Bool[numpy.ndarray, "row column"]:
    """Return where a value fills a square of two by two pixels."""
    corner = values[:-1, :-1]
    found: numpy.ndarray = (corner == values[1:, :-1]) & (corner == values[:-1, 1:]) & (corner == values[1:, 1:])
    return found


def mixtures(colours: Iterable[int], areas: set[int]) -> set[int]:
    """Return the colours that lie between two of those that fill an area."""
    split = numpy.array([16, 8, 0])
    ends = (numpy.array(sorted(areas), dtype=numpy.int64)[:, None] >> split & 255).astype(float)  # [area, 3]
    first, second = (ends[place] for place in numpy.triu_indices(len(ends), 1))  # [pair, 3]
    along, found = second - first, set[int]()
    for colour in set(colours) - areas:
        offset = (numpy.array(colour) >> split & 255) - first
        part = (offset * along).sum(axis=1, keepdims=True) / (along**2).sum(axis=1, keepdims=True)
        if (numpy.abs(offset - part.clip(0, 1) * along) <= 2).all(axis=1).any():
            found.add(colour)
    return found
