"""PCK and recall against loops and cases counted by hand."""

import numpy
import pytest

from dinokit.metrics.matching import pck, recall, right


def test_right_points_are_those_of_a_loop() -> None:
    draw = numpy.random.default_rng(0)
    found, truth = draw.uniform(0, 20, (2, 50, 2))
    expected = [((a - c) ** 2 + (b - d) ** 2) ** 0.5 < 8 for (a, b), (c, d) in zip(found, truth)]
    assert 5 < sum(expected) < 45
    assert right(found, truth, reach=8.0).tolist() == expected


def test_a_point_at_the_very_reach_is_wrong() -> None:
    found = numpy.array([[3.0, 4.0], [2.9, 4.0]])
    assert right(found, numpy.zeros((2, 2)), reach=5.0).tolist() == [False, True]


def test_categories_count_alike_then_points_or_pairs() -> None:
    one, none = numpy.array([True]), numpy.zeros(3, dtype=bool)
    scores = pck([one, none, one], ["cat", "cat", "dog"])
    assert scores.each == {"cat": 25, "dog": 100}
    assert scores.by_point == 62.5  # not 2 of 5 points
    assert scores.by_pair == 75  # cat: the mean of 100 and 0


def test_recall_is_the_share_below_the_limit() -> None:
    errors = numpy.array([0.0, 9.9, 10.0, 30.0])
    assert [recall(errors, limit) for limit in (10.0, 20.0, 50.0)] == [50, 75, 100]


def test_names_must_be_those_of_the_pairs() -> None:
    with pytest.raises(ValueError, match="zip"):
        pck([numpy.array([True])], ["cat", "dog"])
