import numpy
import pytest
from sklearn.metrics import average_precision_score

from dinokit.metrics.precision import average_precision, eleven_points, mean_precision, mean_precision_interval


@pytest.mark.parametrize("levels", [4, 1000])
def test_it_is_that_of_scikit_learn_also_with_ties(levels: int) -> None:
    generator = numpy.random.default_rng(0)
    truth, scores = generator.random(60) < 0.3, generator.integers(0, levels, 60) / levels
    assert average_precision(truth, scores) == pytest.approx(average_precision_score(truth, scores))


def test_a_hand_case_and_no_positive() -> None:
    truth = numpy.array([False, True, True, False])
    assert average_precision(truth, numpy.array([0.9, 0.8, 0.1, 0.0])) == pytest.approx((1 / 2 + 2 / 3) / 2)
    with pytest.raises(ValueError, match="positive sample"):
        average_precision(numpy.zeros(3, bool), numpy.zeros(3))


def test_eleven_points_are_those_of_the_definition() -> None:
    generator = numpy.random.default_rng(1)
    for positives in (1, 3, 10, 30):
        truth, scores = numpy.arange(60) < positives, generator.permutation(60) / 60
        hits, seen = numpy.cumsum(truth[numpy.argsort(-scores)]), numpy.arange(1, 61)
        best = [max(h / n for h, n in zip(hits, seen) if 10 * h >= tenth * positives) for tenth in range(11)]
        assert eleven_points(truth, scores) == pytest.approx(sum(best) / 11)


def test_eleven_points_by_hand() -> None:
    truth = numpy.array([True, False, True, False])
    # recall 1/2 at precision 1: the points 0 to 0.5; recall 1 at 2/3: the other five
    assert eleven_points(truth, numpy.array([0.9, 0.8, 0.7, 0.6])) == pytest.approx((6 + 5 * 2 / 3) / 11)
    # equal scores are one threshold, whatever their order
    assert eleven_points(truth, numpy.ones(4)) == pytest.approx(1 / 2)


def test_the_mean_is_over_classes_that_are_there_and_over_samples_that_count() -> None:
    truth = numpy.array([[True, False, True], [False, False, False], [True, False, False], [False, False, False]])
    scores = numpy.array([[0.9, 0.9, 0.1], [0.8, 0.8, 0.2], [0.7, 0.7, 0.3], [0.6, 0.6, 0.4]])
    left_out = numpy.zeros_like(truth)
    left_out[2:, 2] = True  # of two samples that count the second is right
    assert mean_precision(truth, scores, left_out=left_out) == pytest.approx(((6 + 5 * 2 / 3) / 11 + 1 / 2) / 2)


def test_the_interval_is_that_of_the_naive_bootstrap() -> None:
    draw = numpy.random.default_rng(0)
    truth, scores = draw.random((40, 3)) < 0.4, draw.integers(0, 12, (2, 40, 3)) / 12
    left_out = draw.random((40, 3)) < 0.1
    counts = numpy.random.default_rng(7).multinomial(40, numpy.full(40, 1 / 40), size=50)
    means = []
    for times in counts:
        rows = numpy.repeat(numpy.arange(40), times)
        means.append(numpy.mean([mean_precision(truth[rows], each[rows], left_out=left_out[rows]) for each in scores]))
    found = mean_precision_interval(truth, [*scores], left_out=left_out, seed=7, draws=50)
    assert found == pytest.approx(numpy.quantile(means, [0.025, 0.975]))


def test_a_draw_without_a_class_is_the_mean_over_the_others() -> None:
    truth = numpy.array([[True, False], [True, False], [True, True], [False, False]])  # the second is often not drawn
    low, high = mean_precision_interval(truth, [truth.astype(float)], left_out=numpy.zeros_like(truth))
    assert low == high == 1
