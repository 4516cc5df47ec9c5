import numpy
import pytest

from dinokit.metrics.iou import confusion, scores


def test_all_scores_are_those_of_a_naive_count() -> None:
    generator = numpy.random.default_rng(0)
    images = [(generator.integers(0, 5, (6, 7)), generator.integers(0, 5, (6, 7))) for _ in range(3)]
    for truth, _ in images:
        truth[generator.random((6, 7)) < 0.2] = 255
    found = scores(sum(confusion(truth, guess, classes=5) for truth, guess in images))
    pixels = [(t, f) for truth, guess in images for t, f in zip(truth.flat, guess.flat) if t != 255]
    ious, accuracies = [], []
    for kind in range(5):
        both = sum(t == kind and f == kind for t, f in pixels)
        ious.append(100 * both / sum(t == kind or f == kind for t, f in pixels))
        accuracies.append(100 * both / sum(t == kind for t, f in pixels))
    numpy.testing.assert_allclose(found.iou, ious)
    numpy.testing.assert_allclose(found.accuracy, accuracies)
    assert found.miou == pytest.approx(sum(ious) / 5)
    assert found.macc == pytest.approx(sum(accuracies) / 5)
    assert found.aacc == pytest.approx(100 * sum(t == f for t, f in pixels) / len(pixels))


def test_a_class_that_occurs_nowhere_is_no_part_of_the_mean_but_one_only_predicted_counts_as_zero() -> None:
    truth, found = numpy.array([[0, 0, 1, 255]]), numpy.array([[0, 3, 1, 2]])
    result = scores(confusion(truth, found, classes=5))
    numpy.testing.assert_array_equal(result.iou, [50, 100, numpy.nan, 0, numpy.nan])
    assert result.miou == 50
    assert result.macc == 75


def test_pixels_that_do_not_count_or_do_not_exist() -> None:
    assert confusion(numpy.full((2, 2), 255), numpy.zeros((2, 2), int), classes=2).sum() == 0
    with pytest.raises(ValueError, match="at least one pixel"):
        scores(numpy.zeros((2, 2), numpy.int64))
    with pytest.raises(ValueError, match="classes 0 to 1 or 255, got 7"):
        confusion(numpy.array([[7]]), numpy.array([[0]]), classes=2)
