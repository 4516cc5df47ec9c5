import numpy
import pytest

from dinokit.metrics import interval as module
from dinokit.metrics.accuracy import per_class
from dinokit.metrics.interval import interval, per_class_shares, percent


def test_two_images_by_hand() -> None:
    # both wrong, one of each, both right: 1/4, 1/2, 1/4 of the draws, so both ends are reached
    assert interval(numpy.array([True, False])) == (0, 1)
    assert interval(numpy.array([0.25, 0.25, 0.25])) == (0.25, 0.25)
    assert percent(numpy.array([True, True])) == [100, 100]
    with pytest.raises(ValueError, match="needs values"):
        interval(numpy.zeros(0))


def test_the_ends_are_those_of_means_of_rows_drawn_again() -> None:
    values = numpy.random.default_rng(0).random(50) ** 3
    rows = numpy.random.default_rng(1).integers(0, 50, (20000, 50))
    expected = numpy.quantile(values[rows].mean(axis=1), [0.025, 0.975])
    # 2,000 draws place an end within about 0.004, as 0.04 of spread has it
    assert interval(values, draws=2000) == pytest.approx(expected, abs=0.008)


@pytest.mark.parametrize("chance", [0.5, 0.9])
def test_the_truth_is_inside_nineteen_times_of_twenty(chance: float) -> None:
    generator = numpy.random.default_rng(0)
    inside = 0
    for seed in range(400):
        low, high = interval(generator.random(200) < chance, seed=seed, draws=400)
        inside += low <= chance <= high
    assert inside / 400 == pytest.approx(0.95, abs=0.03)


def test_neither_the_order_of_images_nor_blocks_of_draws_count(monkeypatch: pytest.MonkeyPatch) -> None:
    values = numpy.random.default_rng(0).random(30)
    whole = interval(values, seed=3)
    assert interval(values[::-1], seed=3) == whole
    assert interval(values, seed=4) != whole
    monkeypatch.setattr(module, "HELD", 7 * 30)
    assert interval(values, seed=3) == pytest.approx(whole)


def test_the_mean_over_classes_has_the_interval_of_its_own_bootstrap() -> None:
    generator = numpy.random.default_rng(0)
    truth = numpy.repeat([0, 1, 3], [300, 60, 20])  # class 2 has no image
    right = generator.random(len(truth)) < numpy.array([0.9, 0.5, 0.3, 0.2])[truth]
    values = per_class_shares(truth, right)
    assert values.mean() == pytest.approx(per_class(truth, numpy.where(right, truth, -1)))
    again = [generator.integers(0, len(truth), len(truth)) for _ in range(2000)]
    means = [per_class(truth[rows], numpy.where(right, truth, -1)[rows]) for rows in again]
    # the same up to the shares' own fluctuation in small classes
    assert interval(values, draws=2000) == pytest.approx(numpy.quantile(means, [0.025, 0.975]), abs=0.01)
