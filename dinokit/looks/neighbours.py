"""The images of a pool that are nearest to one, by the features of the pool, with the patches that agreed.

A row per neighbour: the query and the neighbour beside two maps, in which a patch is as bright as the patch of the
other image that is most like it. The nearest are found by the cosine of what `dinokit embed` kept of every image
(curation/neighbours.py); the maps are of patches, which say where, not why: CLS need not look at all of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from dinokit.core.messages import BadImage, UserError, warn
from dinokit.core.numbers import at_least
from dinokit.curation.neighbours import Edges, Ordered, Search
from dinokit.curation.vectors import Vectors
from dinokit.features.embedding import unit
from dinokit.images.intensity import AnyImage
from dinokit.looks import similarity
from dinokit.looks.field import Field, TooLong
from dinokit.looks.sheet import Cell, Row, photo
from dinokit.sources.base import Source

CHUNK = 1 << 24  # cosines held at once: 128 MiB


@dataclass(frozen=True, kw_only=True)
class Config:
    """How many."""

    k: int = at_least(1, 5)  # neighbours of an image


def nearest(vectors: Vectors, queries: Float[np.ndarray, "query dim"], *, k: int) -> Edges:
    """Return the k nearest vectors, such as those of a pool, for each query, the most similar first."""
    asked = Ordered.single(Vectors([queries.astype(np.float32)]))
    search = Search(asked, Ordered.single(vectors), k=min(k, len(vectors)))
    return Edges.concatenate([search.block(number) for number in range(len(search))])


def rows(source: Source, queries: Sequence[Field], found: Edges, look: Callable[[AnyImage, str], Field]) -> list[Row]:
    """Draw queries with their neighbours.

    Args:
        source: of the neighbours, such as the images of a pool, as the model wants them.
        found: of `nearest`.
        look: what makes a field of an image and its name.
    """
    drawn = list[Row]()
    left = UserError(f"no neighbour in {source.name} can be read any more; embed it again")
    for query, other, cosine in zip(found.rows.tolist(), found.others.tolist(), found.similarity.tolist(), strict=True):
        key = source.key(other)
        try:
            there = look(source.read(other), key.rpartition("/")[2])
        except (BadImage, TooLong) as error:
            warn(f"{key} is passed over: {error}")
            left = error if isinstance(error, TooLong) else left
            continue
        here = queries[query]
        maps = agreement(here, there)
        low, high = similarity.scale(maps)
        told = f"patches {low:.2f} to {high:.2f}", f"{there.name}: cosine {cosine:.3f}"
        cells = [photo(here), photo(there)]
        colours = [similarity.coloured(each, (low, high)) for each in maps]
        drawn.append(
            [
                cells[0],
                Cell(told[0], colours[0], cells[0].size),
                Cell("", colours[1], cells[1].size),
                Cell(told[1], cells[1].colours, cells[1].size),
            ]
        )
    if not drawn:
        raise left
    return drawn


def agreement(
    one: Field, other: Field
) -> tuple[Float64[Tensor, "rows columns"], Float64[Tensor, "other_rows other_columns"]]:
    """Return for every patch of two images its largest cosine with any patch of the other."""
    left, right = (unit(each.patches.flatten(0, 1)) for each in (one, other))
    best, others = [], torch.full((len(right),), -torch.inf, dtype=torch.float64)
    for some in torch.split(left, max(CHUNK // len(right), 1)):
        products = some @ right.T  # [patch, patch]
        best.append(products.amax(dim=1))
        others = torch.maximum(others, products.amax(dim=0))
    return torch.cat(best).reshape(one.patches.shape[:2]), others.reshape(other.patches.shape[:2])
