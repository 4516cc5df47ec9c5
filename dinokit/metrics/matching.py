"""Scores of matched points: PCK on keypoints in pixels, recall of points of a surface in millimetres.

Sources: SPair-71k (arXiv:1908.10543) for PCK, probe3d (arXiv:2404.08636) for recall, DINOv3 (arXiv:2508.10104,
appendix D) for the mean over 1, 2 and 5 cm. A match whose error equals the limit is wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy
from jaxtyping import Bool, Float

Points = Float[numpy.ndarray, "point 2"]  # (x, y) in pixels, whole numbers at the centres


@dataclass(frozen=True)
class Scores:
    """The share of points that are right, in percent, and the mean over categories of two ways to count."""

    by_point: float  # every point of a category counts alike, as SPair-71k reports it
    by_pair: float  # every pair does
    each: dict[str, float]  # by category, every point counting alike


def right(found: Points, truth: Points, *, reach: float) -> Bool[numpy.ndarray, " point"]:
    """Tell which points lie nearer to the truth than so many pixels."""
    near: Bool[numpy.ndarray, " point"] = numpy.linalg.norm(found - truth, axis=1) < reach
    return near


def pck(pairs: Sequence[Bool[numpy.ndarray, " _"]], names: Sequence[str]) -> Scores:
    """Average which points of every pair are right, by category.

    Args:
        pairs: none without points.
        names: the category of every pair.
    """
    points, means = dict[str, list[float]](), dict[str, list[float]]()
    for hits, name in zip(pairs, names, strict=True):
        points.setdefault(name, []).extend(100.0 * hits)
        means.setdefault(name, []).append(100.0 * float(hits.mean()))
    each = {name: float(numpy.mean(values)) for name, values in points.items()}
    by_pair = [float(numpy.mean(values)) for values in means.values()]
    return Scores(float(numpy.mean(list(each.values()))), float(numpy.mean(by_pair)), each)


def recall(errors: Float[numpy.ndarray, " match"], limit: float) -> float:
    """Return the percentage of matches whose error is below a limit of the same unit."""
    return 100.0 * float((errors < limit).mean())
