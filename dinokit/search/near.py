"""Images of an index that are nearly the same: pairs above a cosine, as curation finds them (curation/pairs.py)."""

import tempfile
from pathlib import Path

import numpy
import torch

from dinokit.core.messages import progress
from dinokit.curation.neighbours import Edges
from dinokit.curation.pairs import find
from dinokit.curation.vectors import Vectors
from dinokit.search.rows import Rows

NEIGHBOURS = 64  # of an image that are looked at, as in DINOv2 (arXiv:2304.07193), appendix A.3
EXACT = 100_000  # rows that are all compared with each other; more are within cells


def pairs(rows: Rows, *, above: float) -> Edges:
    """Return the pairs of rows above a cosine, each once, the most similar first."""
    some = [(numbers, each.astype(numpy.float32)) for numbers, each in rows.blocks()]
    numbers = numpy.concatenate([each for each, _ in some])
    vectors = Vectors([each for _, each in some])
    with tempfile.TemporaryDirectory() as state:
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
    # within cells a pair may be found from one side alone
    low, high = numpy.minimum(found.rows, found.others), numpy.maximum(found.rows, found.others)
    _, first = numpy.unique(low * len(numbers) + high, return_index=True)
    order = first[numpy.lexsort((high[first], low[first], -found.similarity[first]))]
    return Edges(numbers[low[order]], numbers[high[order]], found.similarity[order])
