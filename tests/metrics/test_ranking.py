"""Scores of a search, by hand and against the plainest loops."""

import numpy
import pytest
from sklearn.metrics import average_precision_score

from dinokit.metrics import ranking

DRAW = numpy.random.default_rng(0)


def naive_places(similarity: list[float], right: set[int], ignored: set[int]) -> list[int]:
    seen = [image for image in range(len(similarity)) if image not in ignored]
    ranked = sorted(seen, key=lambda image: (-similarity[image], image in right))
    return [place for place, image in enumerate(ranked) if image in right]


def naive_trapezoids(places: list[int], count: int) -> float:
    area = 0.0
    for found, place in enumerate(places):
        before = 1.0 if place == 0 else found / place
        area += (before + (found + 1) / (place + 1)) / 2 / count
    return area


def naive_gap(confidence: list[float], right: list[bool], answerable: list[bool]) -> float:
    order = sorted(range(len(right)), key=lambda query: (-confidence[query], right[query]))
    hits = total = 0.0
    for seen, query in enumerate(order, start=1):
        hits += right[query]
        total += right[query] * hits / seen
    return total / sum(answerable)


@pytest.mark.parametrize(("place", "area"), [(0, 1.0), (1, 0.25), (4, 0.1)])
def test_of_one_right_image_the_area_is_half_the_reciprocal_of_its_rank(place: int, area: float) -> None:
    assert ranking.trapezoids(numpy.array([place])) == pytest.approx(area)


def test_the_area_by_hand() -> None:
    # right, wrong, right: precision falls from 1 to 1/2 and rises to 2/3
    assert ranking.trapezoids(numpy.array([0, 2])) == pytest.approx((1 + (1 / 2 + 2 / 3) / 2) / 2)


def test_precision_at_k_counts_up_to_the_last_right_image() -> None:
    places = numpy.array([0, 3])
    assert [ranking.precision_at(places, k) for k in (1, 2, 3, 4, 10)] == [1, 1 / 2, 1 / 3, 1 / 2, 1 / 2]


def test_an_ignored_image_is_as_good_as_away() -> None:
    similarity = numpy.array([0.9, 0.8, 0.7, 0.6])
    assert ranking.places(similarity, numpy.array([2]), numpy.array([0])).tolist() == [1]
    assert ranking.places(similarity, numpy.array([2]), numpy.array([], dtype=int)).tolist() == [2]


def test_features_that_are_all_alike_score_nothing() -> None:
    alike = numpy.zeros(50)
    assert ranking.places(alike, numpy.array([0, 20]), numpy.array([1])).tolist() == [47, 48]
    answerable = numpy.arange(50) < 25
    assert ranking.gap(alike, numpy.arange(50) < 1, answerable) == pytest.approx(1 / 50 / 25)


@pytest.mark.parametrize("seed", range(8))
def test_places_and_area_are_those_of_a_loop(seed: int) -> None:
    draw = numpy.random.default_rng(seed)
    similarity = draw.integers(0, 8, 30) / 8  # with ties
    chosen = draw.permutation(30)
    right, ignored = chosen[:4], chosen[4:10]
    places = ranking.places(similarity, right, ignored)
    assert places.tolist() == naive_places(similarity.tolist(), set(right.tolist()), set(ignored.tolist()))
    assert ranking.trapezoids(places) == pytest.approx(naive_trapezoids(places.tolist(), 4))


@pytest.mark.parametrize("seed", range(8))
def test_gap_is_that_of_a_loop(seed: int) -> None:
    draw = numpy.random.default_rng(seed)
    confidence, answerable = draw.integers(0, 8, 40) / 8, draw.random(40) < 0.5
    right = answerable & (draw.random(40) < 0.6)
    wanted = naive_gap(confidence.tolist(), right.tolist(), answerable.tolist())
    assert ranking.gap(confidence, right, answerable) == pytest.approx(wanted)


def test_without_distractors_gap_is_that_of_scikit_learn() -> None:
    right, confidence = DRAW.random(80) < 0.4, DRAW.random(80)
    wanted = average_precision_score(right, confidence) * right.mean()
    assert ranking.gap(confidence, right, numpy.ones(80, dtype=bool)) == pytest.approx(wanted)


def test_gap_by_hand() -> None:
    # right at 1, a distractor at 2, right at 3; a fourth is wrong
    right, answerable = numpy.array([True, False, True, False]), numpy.array([True, False, True, True])
    falling = numpy.array([4.0, 3.0, 2.0, 1.0])
    assert ranking.gap(falling, right, answerable) == pytest.approx((1 + 2 / 3) / 3)
    kept = numpy.flatnonzero(answerable)
    assert ranking.gap(falling[kept], right[kept], answerable[kept]) == pytest.approx(2 / 3)  # without distractors


def test_the_interval_of_gap_holds_it_and_is_narrow_where_all_is_right() -> None:
    every, confidence = numpy.ones(200, dtype=bool), DRAW.random(200)
    right = DRAW.random(200) < 0.7
    low, high = ranking.gap_interval(confidence, right, every)
    assert low < ranking.gap(confidence, right, every) < high < low + 0.2
    assert ranking.gap_interval(confidence, every, every) == (1, 1)


def test_the_interval_of_gap_does_not_depend_on_how_many_draws_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    right, confidence = DRAW.random(60) < 0.5, DRAW.random(60)
    whole = ranking.gap_interval(confidence, right, numpy.ones(60, dtype=bool))
    monkeypatch.setattr(ranking, "HELD", 1)
    assert ranking.gap_interval(confidence, right, numpy.ones(60, dtype=bool)) == whole
