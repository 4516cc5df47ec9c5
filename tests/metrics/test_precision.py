import numpy
import pytest
from sklearn.metrics import average_precision_score

from dinokit.metrics.precision import average_precision


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
