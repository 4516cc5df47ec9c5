"""Numbers, details and intervals of an evaluation, from what one head, or heads of several draws, make of its sets."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy

from dinokit.dense.grid import Layout
from dinokit.dense.linear import LinearHead
from dinokit.evaluation.sets.further import Images, Result, scores_of
from dinokit.metrics.interval import percent
from dinokit.metrics.precision import mean_precision_interval

Numbers = dict[str, float]
Intervals = dict[str, list[float]]


def interval(heads: Sequence[LinearHead], images: Images, layout: Layout) -> list[float]:
    """Return the ends of the interval of the mean average precision, as a mean over the heads."""
    truth, scores = images.truth, [scores_of(head, images.rows, layout) for head in heads]
    shown = truth.shown[truth.labels]
    left_out = numpy.zeros_like(shown) if truth.left_open is None else truth.left_open[truth.labels]
    return [100 * end for end in mean_precision_interval(shown, scores, left_out=left_out)]


def summary(
    found: Mapping[str, Sequence[Result]], *, first: str, few: bool
) -> tuple[Numbers, dict[str, Any], Intervals]:
    """Return the numbers of all sets, the means over the heads, with their details and intervals.

    Args:
        found: by the name of the set, '' for the test images, one result per head.
        first: the measure that leads.
        few: the heads are of draws of few images; the deviation of the first measure is a number, too.
    """
    numbers, details, intervals = Numbers(), dict[str, Any](), Intervals()
    for name, results in found.items():
        ending = f"/{name}" if name else ""
        names = sorted(results[0].numbers, key=lambda measure: measure != first or bool(name))
        for measure in names:
            values = [result.numbers[measure] for result in results]
            numbers[measure + ending] = float(numpy.mean(values))
            if measure == names[0] and few:
                numbers[f"{measure}/std{ending}"] = float(numpy.std(values))
            if measure in results[0].counted:
                means = numpy.mean([result.counted[measure] for result in results], axis=0)
                intervals[measure + ending] = percent(means)
        said = dict(results[0].details) | ({"draws": [each.numbers for each in results]} if few else {})
        details |= {"tests": details.get("tests", {}) | {name: said}} if name else said
    return numbers, details, intervals
