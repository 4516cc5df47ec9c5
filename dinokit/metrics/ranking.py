"""Scores of a search: where the right images stand in each ranking, and how far confident answers can be trusted.

Where images are equally similar the wrong ones come first, so that features which are all alike score nothing. Sources:
Philbin et al. 2007 and Radenovic et al. 2018 (arXiv:1803.11285) for the average precision of Oxford and Paris, which
takes the area under the curve by trapezoids, and its precision at k; Perronnin et al. 2009 (CVPR) for GAP, as the Met
dataset (arXiv:2202.01747) scores it.
"""

import numpy
from jaxtyping import Bool, Float, Float64, Int64

HELD = 1 << 22  # numbers held at once


def places(
    similarity: Float[numpy.ndarray, " image"],
    right: Int64[numpy.ndarray, " right"],
    ignored: Int64[numpy.ndarray, " ignored"],
) -> Int64[numpy.ndarray, " right"]:
    """Return how many images stand before each right one, the first first.

    Args:
        right: the images to be found.
        ignored: images that count as if they were not there.
    """
    wrong = numpy.ones(len(similarity), dtype=bool)
    wrong[right] = wrong[ignored] = False
    wanted = numpy.sort(similarity[right])
    if len(wanted):
        wrong &= similarity >= wanted[0]
    reached = numpy.searchsorted(wanted, similarity[wrong], side="right")  # right images a wrong one is as similar as
    before = numpy.cumsum(numpy.bincount(reached, minlength=len(wanted) + 1)[:0:-1])  # wrong ones, the first first
    places: Int64[numpy.ndarray, " right"] = before + numpy.arange(len(wanted))
    return places


def trapezoids(places: Int64[numpy.ndarray, " right"]) -> float:
    """Return the area under the curve of precision over recall, by trapezoids, in [0, 1].

    Args:
        places: of the right images, from 0, ascending; one at least.
    """
    before = numpy.arange(len(places))  # right images in front of each
    falling = numpy.where(places > 0, before / numpy.maximum(places, 1), 1.0)  # precision just before it
    return float((falling + (before + 1) / (places + 1)).mean() / 2)


def precision_at(places: Int64[numpy.ndarray, " right"], k: int) -> float:
    """Return the share of right images among the first k; if the last right one stands earlier, up to it."""
    seen = min(k, int(places[-1]) + 1)
    return float((places < seen).sum() / seen)


def gap(
    confidence: Float[numpy.ndarray, " query"],
    right: Bool[numpy.ndarray, " query"],
    answerable: Bool[numpy.ndarray, " query"],
) -> float:
    """Return the global average precision of one answer per query, in [0, 1].

    All answers are ranked together; the precision at each right one is summed and divided by the queries that have an
    answer.

    Args:
        confidence: comparable among all queries.
        right: the answer is; never for a query that has none.
        answerable: the query has an answer; the others are there to distract.
    """
    return float(_gaps(confidence, right, answerable, numpy.ones((1, len(right)), dtype=numpy.int64))[0])


def gap_interval(
    confidence: Float[numpy.ndarray, " query"],
    right: Bool[numpy.ndarray, " query"],
    answerable: Bool[numpy.ndarray, " query"],
    seed: int = 0,
    draws: int = 1000,
) -> tuple[float, float]:
    """Return the 95 % percentile interval of `gap` under a bootstrap of the queries (see metrics/interval.py)."""
    drawn, count = numpy.random.default_rng(seed), len(right)
    step, even = max(1, HELD // count), numpy.full(count, 1 / count)
    found = [
        _gaps(confidence, right, answerable, drawn.multinomial(count, even, size=min(step, draws - start)))
        for start in range(0, draws, step)
    ]
    low, high = numpy.quantile(numpy.concatenate(found), (0.025, 0.975))
    return float(low), float(high)


def _gaps(
    confidence: Float[numpy.ndarray, " query"],
    right: Bool[numpy.ndarray, " query"],
    answerable: Bool[numpy.ndarray, " query"],
    times: Int64[numpy.ndarray, "draw query"],
) -> Float64[numpy.ndarray, " draw"]:
    """Return `gap` of several draws, in which each query counts so many times."""
    order = numpy.lexsort((right, -confidence))
    times, right, answerable = times[:, order], right[order], answerable[order]
    # a query that is drawn several times stands there as one block, whose last place counts
    hits, seen = numpy.cumsum(times * right, axis=1), numpy.cumsum(times, axis=1)
    sums = (times * right * hits / numpy.maximum(seen, 1)).sum(axis=1)
    found: Float64[numpy.ndarray, " draw"] = sums / numpy.maximum((times * answerable).sum(axis=1), 1)
    return found
