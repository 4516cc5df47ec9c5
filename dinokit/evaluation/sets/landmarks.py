"""Revisited Oxford and Paris: does a photo of a building find the others? (arXiv:1803.11285)

Right are the easy and the hard images (medium), the hard ones, or the easy ones; what does not count is as good as
away, and everything else is wrong. Queries are seen whole, as everything else is, not cut to their boxes. A query
without anything to find is not counted.
"""

from collections.abc import Callable
from pathlib import Path

import numpy
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dinokit.core.messages import UserError
from dinokit.features.compare import compared
from dinokit.features.extraction import Embeddings
from dinokit.metrics.interval import percent
from dinokit.metrics.ranking import places, precision_at, trapezoids
from dinokit.sources.instances import DATABASE, QUERY, Query, landmarks
from dinokit.sources.source import Source

KS = (1, 5, 10)
# what is right, and what does not count
SETTINGS = {
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("easy", "junk")),
    "easy": (("easy",), ("hard", "junk")),
}


def run(
    described: Callable[[Source], Embeddings],
    opened: Callable[[str], Source],
    others: Float[Tensor, "image dim"] | None,
    *,
    root: Path,
) -> tuple[dict[str, float], dict[str, object]]:
    """Search with every query; return `mAP/medium`, hard, easy, and `mP@1/medium`, ..., in percent.

    Args:
        described: a source as vectors.
        opened: a split as a source.
        others: vectors of images that are searched as well, and never right.
        root: folder of the set.
    """
    truth, database, queries = landmarks(root), described(opened(DATABASE)), described(opened(QUERY))
    there = numpy.full(len(truth.database), -1)  # rows of what can be read
    there[database.indices] = numpy.arange(len(database.indices))
    vectors = torch.from_numpy(database.vectors)
    vectors = vectors if others is None else torch.cat([vectors, others])
    found: dict[str, list[Int64[numpy.ndarray, " _"]]] = {name: [] for name in SETTINGS}
    for part, similarity in compared(torch.from_numpy(queries.vectors), vectors):
        for index, cosines in zip(queries.indices[part].tolist(), similarity.numpy(), strict=True):
            for name, kinds in SETTINGS.items():
                right, ignored = (_rows(truth.truth[index], each, there) for each in kinds)
                if len(right):
                    found[name].append(places(cosines, right, ignored))
    asked = {name: each for name, each in found.items() if each}
    if not asked:
        raise UserError(f"no query of {root} has anything to find that can be read; unpack all archives")
    areas = {f"mAP/{name}": numpy.array([*map(trapezoids, each)]) for name, each in asked.items()}
    shares = {
        f"mP@{k}/{name}": numpy.array([precision_at(one, k) for one in each])
        for name, each in asked.items()
        for k in KS
    }
    numbers = {name: 100 * float(values.mean()) for name, values in (areas | shares).items()}
    counts = {"queries": float(len(queries.indices)), "gallery": float(len(vectors))}
    return numbers | counts, {"intervals": {name: percent(values) for name, values in (areas | shares).items()}}


def _rows(query: Query, kinds: tuple[str, ...], there: Int64[numpy.ndarray, " image"]) -> Int64[numpy.ndarray, " row"]:
    rows: Int64[numpy.ndarray, " row"] = there[numpy.concatenate([getattr(query, kind) for kind in kinds])]
    return rows[rows >= 0]
