"""Copydays: does a damaged copy find its original? (Douze et al. 2009, as DINO, arXiv:2104.14294, section 4.2.1)

Copies of each attack search the originals, among distractors where some are given; the strong attacks, by hand, are
what papers report. The average precision is the area by trapezoids: half of 1 / rank, but 1 for the first.
"""

from collections.abc import Callable
from pathlib import Path

import numpy
import torch
from jaxtyping import Float
from torch import Tensor

from dinokit.features.compare import compared
from dinokit.features.extraction import Embeddings
from dinokit.metrics.interval import percent
from dinokit.metrics.ranking import places, trapezoids
from dinokit.sources.instances import ATTACKS, ORIGINAL
from dinokit.sources.source import Source


def run(
    described: Callable[[Source], Embeddings],
    opened: Callable[[str], Source],
    others: Float[Tensor, "image dim"] | None,
    *,
    root: Path,
) -> tuple[dict[str, float], dict[str, object]]:
    """Search with every copy; return `mAP/strong` in percent, and `mAP/ATTACK` of the other attacks that are there.

    Args:
        described: a source as vectors.
        opened: a split as a source.
        others: vectors of images that are searched as well, and never right.
        root: folder of the set.
    """
    originals = described(opened(ORIGINAL))
    vectors = torch.from_numpy(originals.vectors)
    vectors = vectors if others is None else torch.cat([vectors, others])
    nothing = numpy.empty(0, dtype=numpy.int64)
    numbers, intervals, count = dict[str, float](), dict[str, list[float]](), 0
    for attack in ATTACKS:
        if not (root / attack).is_dir():
            continue
        copies = described(opened(attack))
        assert originals.labels is not None
        assert copies.labels is not None
        areas = []
        for part, similarity in compared(torch.from_numpy(copies.vectors), vectors):
            for label, cosines in zip(copies.labels[part].tolist(), similarity.numpy(), strict=True):
                right = numpy.flatnonzero(originals.labels == label)
                if len(right):
                    areas.append(trapezoids(places(cosines, right, nothing)))
        numbers[f"mAP/{attack}"] = 100 * float(numpy.mean(areas))
        intervals[f"mAP/{attack}"] = percent(numpy.array(areas))
        count += len(areas)
    return numbers | {"queries": float(count), "gallery": float(len(vectors))}, {"intervals": intervals}
