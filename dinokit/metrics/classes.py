"""What scores of classes are worth: the share of right answers, of all images or by class, or mean precision.

An image may show one class, or several, of which any is a right answer. Source of the latter: Beyer et al. 2020
(arXiv:2006.07159), section 3.
"""

from dataclasses import dataclass

import numpy
from jaxtyping import Bool, Float, Int64

from dinokit.metrics.precision import eleven_points

TOPS = (1, 5)


@dataclass(frozen=True)
class Truth:
    """Which classes images show."""

    labels: Int64[numpy.ndarray, " image"]
    shown: Bool[numpy.ndarray, "label class"]  # the classes that a label names
    several: bool  # a label may name several; else one
    left_open: Bool[numpy.ndarray, "label class"] | None = None  # classes for which a label counts neither way


@dataclass(frozen=True)
class Judged:
    """What scores are worth, as shares in [0, 1]."""

    right: dict[str, Bool[numpy.ndarray, " image"]]  # "top1", "top5" -> whether a right class is among so many
    per_class: dict[int, float]  # class -> the share of its images whose first answer it is; they have one each
    precision: dict[int, float]  # class -> 11-point average precision; images have several


def judged(
    scores: Float[numpy.ndarray, "image class"],
    truth: Truth,
    *,
    compete: Int64[numpy.ndarray, " competing"] | None = None,
) -> Judged:
    """Compare the likeliest classes, of equal ones the first, with those that are shown.

    Args:
        compete: classes that may be an answer; None: all. "top5" is left out where there are no more than five.
    """
    compete = numpy.arange(scores.shape[1]) if compete is None else compete
    among = scores[:, compete]
    order = numpy.argsort(-among, axis=1, kind="stable")[:, : max(TOPS)]  # [image, rank]
    answers = compete[order]
    hits = truth.shown[truth.labels[:, None], answers]
    right = {f"top{count}": hits[:, :count].any(axis=1) for count in TOPS if count < len(compete) or count == 1}
    if truth.several:
        return Judged(right, {}, _precision(scores, truth))
    wanted = truth.shown[truth.labels].argmax(axis=1)
    found = {place: float(right["top1"][wanted == place].mean()) for place in numpy.unique(wanted).tolist()}
    return Judged(right, found, {})


def _precision(scores: Float[numpy.ndarray, "image class"], truth: Truth) -> dict[int, float]:
    """Return the average precision of every class that some image shows."""
    found, there = dict[int, float](), truth.shown[truth.labels]  # [image, class]
    counts = numpy.ones_like(there) if truth.left_open is None else ~truth.left_open[truth.labels]
    for place in numpy.flatnonzero((there & counts).any(axis=0)).tolist():
        rows = counts[:, place]
        found[place] = eleven_points(there[rows, place], scores[rows, place])
    return found
