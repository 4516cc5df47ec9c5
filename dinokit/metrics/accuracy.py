"""Shares of right answers: of all samples, or as a mean over the classes."""

import numpy
from jaxtyping import Int64


def accuracy(truth: Int64[numpy.ndarray, " sample"], found: Int64[numpy.ndarray, " sample"]) -> float:
    """Return the share of samples whose class is found, in [0, 1]."""
    return float((truth == found).mean())


def per_class(truth: Int64[numpy.ndarray, " sample"], found: Int64[numpy.ndarray, " sample"]) -> float:
    """Return the mean, over the classes of the truth, of the share of theirs that is found, in [0, 1]."""
    counts = numpy.bincount(truth)
    right = numpy.bincount(truth[truth == found], minlength=len(counts))
    there = counts > 0
    return float((right[there] / counts[there]).mean())
