import itertools

import pytest

from dinokit.visuals.plot import every, number, running_mean, thinned, ticks


def test_a_long_curve_is_thinned_and_keeps_its_mean() -> None:
    x, y = thinned(list(range(1000)), [float(i % 2) for i in range(1000)], count=100)
    assert len(x) == 100
    assert x[-1] == 999
    assert sum(y) / len(y) == pytest.approx(0.5)


def test_the_running_mean_keeps_straight_lines_straight() -> None:
    line = [float(i) for i in range(20)]
    assert running_mean(line, window=7) == pytest.approx(line)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.3, -0.2), (0, 12345.0), (2e-6, 9e-6)])
def test_ticks_are_few_round_and_inside(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 2 <= len(found) <= 7
    assert all(low <= value <= high for value in found)


@pytest.mark.parametrize(
    ("value", "expected"), [(0, "0"), (1234567, "1 234 567"), (0.00012, "0.00012"), (2.5, "2.50"), (0.9961, "0.9961")]
)
def test_numbers_are_written_for_people(value: float, expected: str) -> None:
    assert number(value).replace("\u202f", " ") == expected


@pytest.mark.parametrize(("count", "total", "stride"), [(10, 10, 1), (10, 11, 2), (3, 100, 34), (5, 0, 1)])
def test_every_so_many_points_are_kept_and_the_last(count: int, total: int, stride: int) -> None:
    found, places = every(count, total)
    assert found == stride
    assert len(places) <= count
    assert places[-1:] == list(range(total))[-1:]
    assert all(second - first == stride for first, second in itertools.pairwise(places))
