"""What is found and still there: images are deleted after they were embedded, and nobody tells the index.

It is asked of what is found alone, a look at a file each. Of images in archives and on servers it is not asked, nor
where a whole source is gone: then nothing can be shown, but the names are as good as ever.
"""

from dataclasses import dataclass

import numpy
from jaxtyping import Float

from dinokit.search.index import Entry, Index
from dinokit.search.near import pairs
from dinokit.search.nearest import Found

WIDER, MOST = 4, 64  # times as many are asked for where some are gone, and up to how many


@dataclass(frozen=True)
class Near:
    """The nearest images that are there."""

    found: Found
    gone: tuple[str, ...]  # names of those that are not and would be among them


@dataclass(frozen=True)
class Pair:
    """Two images that are nearly the same."""

    cosine: float
    one: Entry
    other: Entry


def nearest(index: Index, vector: Float[numpy.ndarray, "1 number"], *, k: int, but: int | None = None) -> Near:
    """Return the k nearest images that are there, or as many as there are.

    Args:
        vector: as the pools have them (features/embed.embedded).
        but: a row that is not wanted, such as the query's own.
    """
    wide = k
    while True:
        found = index.nearest(vector, k=wide + (but is not None))[0]
        other = numpy.flatnonzero(found.rows != (-1 if but is None else but))[:wide]
        entries = index.entries(found.rows[other])
        there = numpy.array([not each.gone for each in entries], dtype=bool)
        if there.sum() >= k or len(other) < wide or wide >= MOST * k:
            break
        wide *= WIDER
    places = numpy.flatnonzero(there)[:k]
    last = int(places[-1]) if len(places) == k else len(entries)
    kept = other[places]
    return Near(Found(found.rows[kept], found.cosines[kept]), tuple(each.name for each in entries[:last] if each.gone))


def twins(index: Index, *, above: float) -> tuple[list[Pair], int]:
    """Return the pairs above a cosine whose images are there, the most similar first, and how many others there are."""
    found = pairs(index.rows, above=above)
    entries = [index.entries(numbers) for numbers in (found.rows, found.others)]
    every = [Pair(*each) for each in zip(found.similarity.tolist(), *entries, strict=True)]
    gone = {each.file for side in entries for each in set(side) if each.gone}
    there = [pair for pair in every if not gone & {pair.one.file, pair.other.file}]
    return there, len(every) - len(there)
