"""Average precision of a ranking: the area under its precision-recall curve, as a sum of steps or at eleven points."""

import numpy
from jaxtyping import Bool, Float, Int64


def average_precision(truth: Bool[numpy.ndarray, " sample"], scores: Float[numpy.ndarray, " sample"]) -> float:
    """Return the sum of (recall_n - recall_(n-1)) precision_n over the thresholds, in [0, 1].

    Equal scores are one threshold; ValueError if nothing is true.
    """
    hits, seen = _thresholds(truth, scores)
    return float((numpy.diff(hits, prepend=0) * hits / seen).sum() / hits[-1])


def eleven_points(truth: Bool[numpy.ndarray, " sample"], scores: Float[numpy.ndarray, " sample"]) -> float:
    """Return the mean, over the recalls 0, 0.1, ..., 1, of the best precision at that recall or above, in [0, 1].

    Equal scores are one threshold; ValueError if nothing is true. Source: Everingham et al. 2010, the PASCAL VOC
    challenge, section 4.2, as VOC 2007 is scored.
    """
    hits, seen = _thresholds(truth, scores)
    best = numpy.maximum.accumulate((hits / seen)[::-1])[::-1]  # at this recall or above
    # in whole numbers: 0.1 * 3 is above 3 / 10
    return float(best[[numpy.searchsorted(10 * hits, tenth * hits[-1]) for tenth in range(11)]].mean())


def mean_precision(
    truth: Bool[numpy.ndarray, "sample class"],
    scores: Float[numpy.ndarray, "sample class"],
    *,
    left_out: Bool[numpy.ndarray, "sample class"],
) -> float:
    """Return the mean of `eleven_points` over the classes of which some sample is, in [0, 1].

    Args:
        left_out: samples that count neither for nor against a class.
    """
    counted = ~left_out
    each = [
        eleven_points(truth[rows, number], scores[rows, number])
        for number, rows in enumerate(counted.T)
        if truth[rows, number].any()
    ]
    return float(numpy.mean(each))


def _thresholds(
    truth: Bool[numpy.ndarray, " sample"], scores: Float[numpy.ndarray, " sample"]
) -> tuple[Int64[numpy.ndarray, " threshold"], Int64[numpy.ndarray, " threshold"]]:
    """Return how many are found and how many seen at each threshold, the highest first."""
    if not truth.any():
        raise ValueError("average precision needs a positive sample, got none")
    order = numpy.argsort(-scores, kind="stable")
    hits = numpy.cumsum(truth[order])
    last = numpy.append(numpy.diff(scores[order]) != 0, True)  # of the samples with one score
    return hits[last], numpy.flatnonzero(last) + 1
