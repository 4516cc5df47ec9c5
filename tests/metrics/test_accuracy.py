import numpy
import pytest
from sklearn.metrics import balanced_accuracy_score

from dinokit.metrics.accuracy import accuracy, per_class


def test_a_case_by_hand() -> None:
    truth, found = numpy.array([0, 0, 0, 0, 2, 2]), numpy.array([0, 0, 0, 2, 2, 5])
    assert accuracy(truth, found) == pytest.approx(4 / 6)
    assert per_class(truth, found) == pytest.approx((3 / 4 + 1 / 2) / 2)  # class 1 is not there, 5 only an answer


def test_every_class_counts_alike_as_in_scikit_learn() -> None:
    draw = numpy.random.default_rng(0)
    truth, found = draw.integers(0, 7, 200), draw.integers(0, 6, 200)
    assert per_class(truth, found) == pytest.approx(balanced_accuracy_score(truth, found))
