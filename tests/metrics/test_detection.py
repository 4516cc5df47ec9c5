"""Average precision, against pycocotools and by hand."""

import copy
import io
from contextlib import redirect_stdout

import numpy as np
import pytest
from pycocotools import coco, cocoeval

from dinokit.metrics.detection import NAMES, Found, Objects, average_precision, plain, results


def drawn(seed: int) -> tuple[list[Objects], list[Found], int]:
    """Draw images with crowds, found boxes of equal scores, more than 100 in a picture, and pictures of nothing."""
    draw = np.random.default_rng(seed)
    classes = int(draw.integers(1, 5))
    objects, found = [], []
    for image in range(int(draw.integers(2, 6))):
        count = int(draw.integers(0, 10))
        corner, side = draw.uniform(0, 300, (count, 2)), draw.uniform(4, 200, (count, 2))
        boxes, kinds = np.concatenate([corner, corner + side], axis=1), draw.integers(0, classes, count)
        objects.append(Objects(boxes, kinds, side.prod(axis=1) * 0.8, draw.random(count) < 0.2))
        chosen = draw.integers(0, count, 130 if image == 0 else 6) if count else np.empty(0, dtype=int)
        moved = boxes[chosen] + draw.normal(0, 6, (len(chosen), 4))
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
        found.append(Found(moved, kinds[chosen], draw.random(len(chosen)).round(1)))
    return objects, found, classes


@pytest.mark.parametrize("seed", range(30))
def test_precision_is_that_of_pycocotools(seed: int) -> None:
    objects, found, classes = drawn(seed)
    with redirect_stdout(io.StringIO()):
        truth = coco.COCO()
        truth.dataset = copy.deepcopy(plain(objects, classes))
        truth.createIndex()
        judge = cocoeval.COCOeval(truth, truth.loadRes(results(found)), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    numbers, _ = average_precision(objects, found, classes=classes)
    wanted = [np.nan if value < 0 else 100 * value for value in judge.stats[:6]]
    np.testing.assert_allclose([numbers[name] for name in NAMES], wanted, atol=1e-7)


def test_half_of_the_objects_found_exactly_is_a_precision_of_51_in_101() -> None:
    boxes = np.array([[0.0, 0, 10, 10], [50, 50, 90, 90]])
    objects = [Objects(boxes, np.zeros(2, int), np.array([100.0, 1600.0]), np.zeros(2, bool))]
    numbers, each = average_precision(objects, [Found(boxes[:1], np.zeros(1, int), np.ones(1))], classes=2)
    assert numbers["AP"] == pytest.approx(100 * 51 / 101)  # right up to a recall of 0.5
    assert (numbers["APs"], numbers["APm"]) == pytest.approx((100, 0))
    assert each[0] == pytest.approx(100 * 51 / 101)
    assert np.isnan(each[1])
    assert np.isnan(numbers["APl"])


def test_nothing_found_is_nothing_right() -> None:
    objects = [Objects(np.array([[0.0, 0, 10, 10]]), np.zeros(1, int), np.array([100.0]), np.zeros(1, bool))]
    empty = Found(np.empty((0, 4)), np.empty(0, int), np.empty(0))
    assert average_precision(objects, [empty], classes=1)[0]["AP"] == 0
