"""What is found and still there: images are deleted after they were embedded, and nobody tells the index.

It is asked of what is found, a look at a file each, and of all images only where nearly all that is near is gone. Of
images in archives and on servers it is not asked. Where a whole source is gone, or none of the files is there, such as
below an empty mount point, nothing can be shown, but the names are as good as ever and are found.
"""

from copy import copy
from dataclasses import dataclass

import numpy
from jaxtyping import Bool, Float, Int64

from dinokit.search.index import Entry, Index
from dinokit.search.near import pairs
from dinokit.search.nearest import Found

WIDER, MOST = 4, 64  # times as many are asked for where some are gone, and up to how many
STEP = 1 << 16  # images that are looked for at a time


@dataclass(frozen=True)
class Near:
    """The nearest images that are there."""

    found: Found
    gone: tuple[str, ...]  # names of those that were looked for, are not there and would be among them


@dataclass(frozen=True)
class Pair:
    """Two images that are nearly the same."""

    cosine: float
    one: Entry
    other: Entry


def nearest(index: Index, vector: Float[numpy.ndarray, "1 number"], *, k: int, but: int | None = None) -> Near:
    """Return the k nearest images that are there, or as many as there are; where none is, as if all were.

    Args:
        vector: as the pools have them (features/embed.embedded).
        but: a row that is not wanted, such as the query's own.
    """
    wide = k
    while True:
        near = _near(index, vector, k=wide, but=but)
        entries = index.entries(near.rows)
        there = numpy.array([not each.gone for each in entries], dtype=bool)
        if there.sum() >= k or len(entries) < wide or wide >= MOST * k:
            break
        wide *= WIDER
    places = numpy.flatnonzero(there)[:k]
    last = int(places[-1]) if len(places) == k else len(entries)
    names = tuple(each.name for each, here in zip(entries[:last], there.tolist()) if not here)
    found = Found(near.rows[places], near.cosines[places])
    if len(places) < k and len(entries) == wide:
        found = _farther(index, vector, k=k, but=but)
    if not len(found.rows):  # none is there: the names are as good as ever
        return Near(Found(near.rows[:k], near.cosines[:k]), names[:k])
    return Near(found, names)


def _near(index: Index, vector: Float[numpy.ndarray, "1 number"], *, k: int, but: int | None) -> Found:
    """Return the k nearest rows without one, there or not."""
    found = index.nearest(vector, k=k + (but is not None))[0]
    other = numpy.flatnonzero(found.rows != (-1 if but is None else but))[:k]
    return Found(found.rows[other], found.cosines[other])


def _farther(index: Index, vector: Float[numpy.ndarray, "1 number"], *, k: int, but: int | None) -> Found:
    """Return the k nearest images that are there, after a look at every file."""
    lost = numpy.zeros(len(index.rows.alive), dtype=bool)
    lost[index.rows.numbers] = gone(index, index.rows.numbers)
    left = copy(index)
    left.leave_out(lost)
    if not len(left):
        return Found(numpy.empty(0, numpy.int64), numpy.empty(0, numpy.float32))
    return _near(left, vector, k=k, but=but)


def gone(index: Index, rows: Int64[numpy.ndarray, " some"]) -> Bool[numpy.ndarray, " some"]:
    """Tell of which images the files are no longer there: a look each."""
    parts = numpy.split(rows, range(STEP, len(rows), STEP))
    return numpy.array([each.gone for part in parts for each in index.entries(part)], dtype=bool)


def twins(index: Index, *, above: float) -> tuple[list[Pair], int]:
    """Return the pairs above a cosine whose images are there, the most similar first, and how many others there are."""
    found = pairs(index.rows, above=above)
    entries = [index.entries(numbers) for numbers in (found.rows, found.others)]
    every = [Pair(*each) for each in zip(found.similarity.tolist(), *entries, strict=True)]
    lost = {each.file for side in entries for each in set(side) if each.gone}
    there = [pair for pair in every if not lost & {pair.one.file, pair.other.file}]
    if every and not there and gone(index, index.rows.numbers).all():
        return every, 0
    return there, len(every) - len(there)
