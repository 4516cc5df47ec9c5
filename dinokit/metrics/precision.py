"""Average precision of a ranking: the area under its precision-recall curve, as a sum of steps."""

import numpy
from jaxtyping import Bool, Float


def average_precision(truth: Bool[numpy.ndarray, " sample"], scores: Float[numpy.ndarray, " sample"]) -> float:
    """Return the sum of (recall_n - recall_(n-1)) precision_n over the thresholds, in [0, 1].

    Equal scores are one threshold; ValueError if nothing is true.
    """
    if not truth.any():
        raise ValueError("average precision needs a positive sample, got none")
    order = numpy.argsort(-scores, kind="stable")
    hits = numpy.cumsum(truth[order])
    last = numpy.append(numpy.diff(scores[order]) != 0, True)  # of the samples with one score
    hits, seen = hits[last], numpy.flatnonzero(last) + 1
    return float((numpy.diff(hits, prepend=0) * hits / seen).sum() / hits[-1])
