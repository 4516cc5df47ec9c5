"""How far a mean over images or queries could be off: the percentile interval of its bootstrap.

The images are drawn again with replacement, as many as there are, and the mean is taken of each draw; 95 % of the means
lie between the ends. What an image counts is all that a draw depends on, so draws are multinomial counts of the
different values: those of right and wrong answers cost the same for any number of images. It says nothing of the
training or of how the heads were chosen, only of the images that were measured. Source: Efron 1979 (Annals of
Statistics 7), Efron and Tibshirani 1993, chapter 13.
"""

import numpy
from jaxtyping import Bool, Float, Float64, Int64

LEVEL = 0.95
HELD = 1 << 22  # counts held at once


def interval(
    values: Float[numpy.ndarray, " image"] | Bool[numpy.ndarray, " image"], seed: int = 0, draws: int = 1000
) -> tuple[float, float]:
    """Return the ends of the interval of the mean, in the unit of the values; their order does not count.

    Raises:
        ValueError: if there are no values.
    """
    if not len(values):
        raise ValueError("an interval needs values, got none")
    different, counts = numpy.unique(values, return_counts=True)
    drawn, step = numpy.random.default_rng(seed), max(1, HELD // len(different))
    means = [
        drawn.multinomial(len(values), counts / len(values), size=min(step, draws - start)) @ different
        for start in range(0, draws, step)
    ]
    low, high = numpy.quantile(numpy.concatenate(means) / len(values), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def percent(values: Float[numpy.ndarray, " image"] | Bool[numpy.ndarray, " image"]) -> list[float]:
    """Return the ends of the interval of a mean of shares in percent, as NAME.json has them."""
    return [100 * end for end in interval(values)]


def per_class_shares(
    truth: Int64[numpy.ndarray, " image"], right: Bool[numpy.ndarray, " image"]
) -> Float64[numpy.ndarray, " image"]:
    """Return for each image a value so that their mean, and its spread, are those of the mean over the classes.

    An image moves the share of its class, and so the mean over the classes, by its distance from that share.
    """
    counts = numpy.bincount(truth)
    shares = numpy.bincount(truth, weights=right) / numpy.maximum(counts, 1)  # [class]
    present = counts > 0
    weight = len(truth) / (present.sum() * numpy.maximum(counts, 1))
    moved: Float64[numpy.ndarray, " image"] = shares[present].mean() + weight[truth] * (right - shares[truth])
    return moved
