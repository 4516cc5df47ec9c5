import numpy
import pytest
from sklearn.metrics import recall_score, top_k_accuracy_score

from dinokit.metrics.classes import Truth, judged
from dinokit.metrics.precision import eleven_points

ONE = numpy.eye(7, dtype=bool)


def test_one_class_each_is_scikit_learns_accuracy_and_recall() -> None:
    draw = numpy.random.default_rng(0)
    labels, scores = draw.integers(0, 7, 60), draw.random((60, 7))
    labels[:7] = numpy.arange(7)
    found = judged(scores, Truth(labels, ONE, several=False))
    assert found.right["top1"].mean() == pytest.approx(top_k_accuracy_score(labels, scores, k=1))
    assert found.right["top5"].mean() == pytest.approx(top_k_accuracy_score(labels, scores, k=5))
    recall = recall_score(labels, scores.argmax(axis=1), average=None)
    assert [found.per_class[place] for place in range(7)] == pytest.approx(recall)


def test_only_those_that_compete_are_answers() -> None:
    scores = numpy.array([[0.5, 0.3, 0.2, 0, 0, 0, 0], [0.4, 0.1, 0.5, 0, 0, 0, 0]])
    truth = Truth(numpy.array([1, 1]), ONE, several=False)
    assert judged(scores, truth).right["top1"].tolist() == [False, False]
    found = judged(scores, truth, compete=numpy.array([1, 2]))
    assert found.right["top1"].tolist() == [True, False]
    assert "top5" not in found.right


def test_any_of_several_classes_is_right() -> None:
    shown = numpy.array([[True, True, False], [False, False, True]])
    scores = numpy.array([[0.1, 0.8, 0.1], [0.2, 0.1, 0.7], [0.4, 0.5, 0.1]])
    found = judged(scores, Truth(numpy.array([0, 0, 1]), shown, several=True))
    assert found.right["top1"].tolist() == [True, False, False]
    there = shown[[0, 0, 1]]
    assert found.precision == {
        place: pytest.approx(eleven_points(there[:, place], scores[:, place])) for place in range(3)
    }


def test_of_equal_probabilities_the_first_class_is_the_answer() -> None:
    found = judged(numpy.full((2, 7), 1 / 7), Truth(numpy.array([0, 6]), ONE, several=False))
    assert found.right["top1"].tolist() == [True, False]
    assert found.right["top5"].tolist() == [True, False]


def test_an_image_that_is_left_open_counts_neither_for_nor_against_a_class() -> None:
    shown = numpy.array([[True, False], [False, True], [False, True]])
    left_open = numpy.array([[False, False], [False, False], [True, False]])
    scores = numpy.array([[0.5, 0.1], [0.2, 0.9], [0.9, 0.3]])  # the third would be a false alarm
    labels = numpy.arange(3)
    assert judged(scores, Truth(labels, shown, True, left_open)).precision == {0: 1.0, 1: 1.0}
    assert judged(scores, Truth(labels, shown, True)).precision[0] < 1
