"""Average precision of a ranking: the area under its precision-recall curve, as a sum of steps or at eleven points."""

from collections.abc import Sequence

import numpy
from jaxtyping import Bool, Float, Float64, Int32, Int64

from dinokit.metrics.interval import HELD, LEVEL


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


def mean_precision_interval(
    truth: Bool[numpy.ndarray, "sample class"],
    scores: Sequence[Float[numpy.ndarray, "sample class"]],
    *,
    left_out: Bool[numpy.ndarray, "sample class"],
    seed: int = 0,
    draws: int = 1000,
) -> tuple[float, float]:
    """Return the ends of the 95 % percentile interval of the bootstrap of `mean_precision`.

    It is no mean over samples: they are drawn again, as many as there are, and it is taken of each draw, over the
    classes that are in it.

    Args:
        scores: of several classifiers, of which the mean is meant.
    """
    drawn, step = numpy.random.default_rng(seed), max(1, HELD // len(truth))
    places = [numpy.flatnonzero(each) for each in ~left_out.T]
    means, even = list[Float[numpy.ndarray, " draw"]](), numpy.full(len(truth), 1 / len(truth))
    for start in range(0, draws, step):
        counts = drawn.multinomial(len(truth), even, size=min(step, draws - start)).astype(numpy.int32).T.copy()
        points = [
            _points_of_draws(truth[rows, number], each[rows, number], rows, counts)
            for each in scores
            for number, rows in enumerate(places)
            if truth[rows, number].any()
        ]
        there = (~numpy.isnan(points)).sum(axis=0)  # [draw]
        means.append(numpy.nansum(points, axis=0)[there > 0] / there[there > 0])
    low, high = numpy.quantile(numpy.concatenate(means), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _points_of_draws(
    truth: Bool[numpy.ndarray, " counted"],
    scores: Float[numpy.ndarray, " counted"],
    rows: Int64[numpy.ndarray, " counted"],
    counts: Int32[numpy.ndarray, "sample draw"],
) -> Float64[numpy.ndarray, " draw"]:
    """Return `eleven_points` of some samples, by how often each is drawn; NaN where nothing true is.

    Only the thresholds at which something true is found can have the best precision, so only these are looked at.
    """
    order = numpy.argsort(-scores, kind="stable")
    found = numpy.flatnonzero(truth[order])
    last = numpy.flatnonzero(numpy.append(numpy.diff(scores[order]) != 0, True))  # of the samples with one score
    ends, firsts = numpy.unique(last[numpy.searchsorted(last, found)], return_index=True)
    hits = numpy.add.reduceat(counts[rows[order[found]]], firsts, axis=0).cumsum(axis=0)  # [threshold, draw]
    starts = numpy.concatenate([[0], ends[:-1] + 1])
    seen = numpy.add.reduceat(counts[rows[order[: ends[-1] + 1]]], starts, axis=0).cumsum(axis=0)
    best = numpy.maximum.accumulate((hits / numpy.maximum(seen, 1))[::-1], axis=0)[::-1]
    first = [(10 * hits < tenth * hits[-1]).sum(axis=0) for tenth in range(11)]
    points = numpy.mean([numpy.take_along_axis(best, place[None], axis=0)[0] for place in first], axis=0)
    values: Float64[numpy.ndarray, " draw"] = numpy.where(hits[-1] > 0, points, numpy.nan)
    return values


def _thresholds(
    truth: Bool[numpy.ndarray, " sample"], scores: Float[numpy.ndarray, " sample"]
) -> tuple[Int64[numpy.ndarray, " threshold"], Int64[numpy.ndarray, " threshold"]]:
    """Return how many are found and how many seen at each threshold at which something is found, the highest first.

    The others change nothing; without a sort of all scores a few right ones among many cost an eighth.
    """
    if not truth.any():
        raise ValueError("average precision needs a positive sample, got none")
    wanted, found = numpy.unique(scores[truth], return_counts=True)  # ascending
    above = numpy.searchsorted(wanted, scores[scores >= wanted[0]], side="right")  # thresholds that each score reaches
    return numpy.cumsum(found[::-1]), numpy.cumsum(numpy.bincount(above, minlength=len(wanted) + 1)[:0:-1])
