"""Images of an index that are nearly the same: pairs above a cosine, as curation finds them (curation/pairs.py)."""

import tempfile
from pathlib import Path

import numpy
import torch
from jaxtyping import Float32

from dinokit.core.messages import progress, warn
from dinokit.curation.neighbours import Edges
from dinokit.curation.pairs import find
from dinokit.curation.vectors import Vectors
from dinokit.search.rows import Rows

NEIGHBOURS = 64  # of an image that are looked at, as in DINOv2 (arXiv:2304.07193), appendix A.3
EXACT = 100_000  # rows that are all compared with each other; more are within cells


def pairs(rows: Rows, *, above: float) -> Edges:
    """Return the pairs of rows above a cosine, each once, the most similar first; of a row those of its nearest."""
    numbers = rows.numbers
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as state:
        vectors = Vectors([_on_disk(rows, Path(state) / "rows.npy")])
        search = find(
            vectors,
            numpy.arange(len(numbers)),
            k=NEIGHBOURS,
            above=above,
            exact=EXACT,
            seed=0,
            state=Path(state),
            device=torch.device("cpu"),
        )
        found = Edges.concatenate([search.block(block) for block in progress(range(len(search)), len(search))])
    most = int((numpy.bincount(found.rows, minlength=1) >= NEIGHBOURS).sum())
    if most:
        warn(f"{most:,} images have {NEIGHBOURS} such pairs or more: of each the {NEIGHBOURS} nearest alone are listed")
    # within cells a pair may be found from one side alone
    low, high = numpy.minimum(found.rows, found.others), numpy.maximum(found.rows, found.others)
    _, first = numpy.unique(low * len(numbers) + high, return_index=True)
    order = first[numpy.lexsort((high[first], low[first], -found.similarity[first]))]
    return Edges(numbers[low[order]], numbers[high[order]], found.similarity[order])


def _on_disk(rows: Rows, path: Path) -> Float32[numpy.ndarray, "alive dim"]:
    """Write what is compared to a file, which is mapped: memory does not grow with the index."""
    found = numpy.lib.format.open_memmap(path, mode="w+", dtype=numpy.float32, shape=(len(rows), rows.dim))
    end = 0
    for some, each in rows.blocks():
        found[end : end + len(some)] = each
        end += len(some)
    return found
