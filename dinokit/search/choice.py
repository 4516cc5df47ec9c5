"""Which descriptor finds images of the same class best: every image of a sample asks all others of it.

The score is the mean over the images of the average precision with which the others of their class are ranked, in
percent; beside it the share of images whose nearest is of their class. Images alone in their class ask nothing.
"""

from dataclasses import dataclass

import numpy
from jaxtyping import Float, Int64

from dinokit.core.order import evenly
from dinokit.metrics.precision import average_precision
from dinokit.search.descriptors import KINDS, WITH_GEM, By, described

IMAGES = 2000  # of a sample, at most: 3 s a descriptor
LEAST = 2  # of a class, where there are too many classes for more


@dataclass(frozen=True)
class Score:
    """How well a descriptor finds images of the same class, in percent."""

    precision: float  # mean average precision
    nearest: float  # share of images whose nearest is of their class
    images: int  # that asked


def sample(labels: Int64[numpy.ndarray, " image"]) -> Int64[numpy.ndarray, " chosen"]:
    """Return the images by which descriptors are compared, as many of each class, so that classes of two stay whole.

    None where there are not two classes of two or more images.
    """
    order = numpy.argsort(labels, kind="stable")
    names, first, counts = numpy.unique(labels[order], return_index=True, return_counts=True)
    several = numpy.flatnonzero((names >= 0) & (counts > 1))
    if len(several) < 2:
        return numpy.empty(0, dtype=numpy.int64)
    some = several[evenly(IMAGES // LEAST, len(several))]
    most = max(IMAGES // len(some), LEAST)
    found = [order[first[each] + evenly(most, int(counts[each]))] for each in some.tolist()]
    return numpy.sort(numpy.concatenate(found))


def scores(rows: Float[numpy.ndarray, "image number"], labels: Int64[numpy.ndarray, " image"]) -> dict[By, Score]:
    """Measure every descriptor on rows of a pool of CLS and GeM."""
    same = labels[:, None] == labels
    numpy.fill_diagonal(same, False)
    asks = numpy.flatnonzero(same.any(axis=1))
    found = dict[By, Score]()
    for by in KINDS:
        vectors = described(rows, by, feature=WITH_GEM)
        cosines = vectors @ vectors.T
        precisions, first = list[float](), 0
        for image in asks.tolist():
            others = numpy.arange(len(labels)) != image
            precisions.append(average_precision(same[image, others], cosines[image, others]))
            first += bool(same[image, others][cosines[image, others].argmax()])
        found[by] = Score(100 * float(numpy.mean(precisions)), 100 * first / len(asks), len(asks))
    return found


def best(found: dict[By, Score]) -> By:
    """Return the descriptor of the highest precision; of equal ones the shorter."""
    return max(KINDS, key=lambda by: found[by].precision)
