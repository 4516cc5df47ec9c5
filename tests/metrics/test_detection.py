"""Average precision, against pycocotools and by hand."""

import copy
import io
from contextlib import redirect_stdout

import numpy as np
import pytest
from pycocotools import coco, cocoeval

from dinokit.metrics.detection import NAMES, Found, Ids, Objects, average_precision, plain, results


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


def judged(objects: list[Objects], found: list[Found], ids: Ids) -> list[float]:
    """Return the numbers of pycocotools in percent, NaN where there are none."""
    with redirect_stdout(io.StringIO()):
        truth = coco.COCO()
        truth.dataset = copy.deepcopy(plain(objects, ids))
        truth.createIndex()
        judge = cocoeval.COCOeval(truth, truth.loadRes(results(found, ids)), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return [np.nan if value < 0 else 100 * value for value in judge.stats[:6]]


@pytest.mark.parametrize("seed", range(30))
def test_precision_is_that_of_pycocotools(seed: int) -> None:
    objects, found, classes = drawn(seed)
    wanted = judged(objects, found, Ids.counted(len(objects), classes))
    numbers, _ = average_precision(objects, found, classes=classes)
    np.testing.assert_allclose([numbers[name] for name in NAMES], wanted, rtol=0, atol=1e-9)


def test_images_without_boxes_without_objects_and_of_other_classes_count_as_in_pycocotools() -> None:
    """Objects that nobody found, boxes where nothing is, boxes of a wrong class and of one without objects."""
    draw = np.random.default_rng(0)
    corner, side = draw.uniform(0, 300, (4, 3, 2)), draw.uniform(20, 200, (4, 3, 2))
    boxes, kinds = np.concatenate([corner, corner + side], axis=2), np.array([0, 1, 1])
    objects = [Objects(each, kinds, (each[:, 2:] - each[:, :2]).prod(axis=1), np.zeros(3, bool)) for each in boxes]
    nothing = Objects(np.empty((0, 4)), np.empty(0, int), np.empty(0), np.empty(0, bool))
    objects[1] = nothing
    found = [
        Found(np.empty((0, 4)), np.empty(0, int), np.empty(0)),
        Found(boxes[1], kinds, np.array([0.9, 0.5, 0.7])),
        Found(boxes[2], np.array([0, 0, 2]), np.array([0.8, 0.9, 0.6])),
        Found(boxes[3] + 2, kinds, np.array([0.3, 0.65, 0.55])),
    ]
    numbers, each = average_precision(objects, found, classes=3)
    wanted = judged(objects, found, Ids((4, 9, 2, 7), (3, 90, 11), ("a", "b", "c")))  # ids with gaps, in any order
    np.testing.assert_allclose([numbers[name] for name in NAMES], wanted, rtol=0, atol=1e-9)
    assert 0 < numbers["AP"] < 50
    assert np.isnan(each[2])  # of which there are boxes alone


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


def of_lvis(objects: list[Objects], found: list[Found], classes: int, image_of: int = 300) -> list[float]:
    """Compute the AP of every class as LVIS defines it, by loops; NaN where no object is."""
    values = []
    for kind in range(classes):
        each = []
        for least in np.arange(0.5, 1.0, 0.05).round(2):
            lines, count = [], 0
            for there, said in zip(objects, found):
                mine = there.boxes[there.classes == kind]
                count += len(mine)
                if not len(mine) and kind not in there.absent:
                    continue
                free = set(range(len(mine)))
                best = np.argsort(-said.scores, kind="stable")[:image_of]
                for place in (place for place in best if said.classes[place] == kind):
                    overlaps = [(iou(said.boxes[place], mine[one]), one) for one in free]
                    overlap, one = max(overlaps, default=(0.0, -1))
                    if overlap >= least:
                        free.remove(one)
                        lines.append((said.scores[place], True))
                    elif kind not in there.some_drawn:
                        lines.append((said.scores[place], False))
            lines.sort(key=lambda line: -line[0])
            right = np.cumsum([line[1] for line in lines])
            precisions = right / np.arange(1, len(lines) + 1)
            recalls = right / count if count else right
            every = [max(precisions[recalls >= recall], default=0.0) for recall in np.linspace(0, 1, 101)]
            each.append(np.mean(every) if count else np.nan)
        values.append(100 * float(np.mean(each)))
    return values


def iou(one: np.ndarray, other: np.ndarray) -> float:
    inside = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    if (inside <= 0).any():
        return 0.0
    areas = [(box[2:] - box[:2]).prod() for box in (one, other)]
    return float(inside.prod() / (sum(areas) - inside.prod()))


def as_of_lvis(seed: int) -> tuple[list[Objects], list[Found]]:
    """Draw images of 6 classes of which some are known not to be there, and some are drawn in part."""
    objects, found, _ = drawn(seed)
    draw = np.random.default_rng(seed)
    federated = list[Objects]()
    for one in objects:
        open_kinds = sorted(set(range(6)) - set(one.classes.tolist()))
        absent = tuple(kind for kind in open_kinds if draw.random() < 0.5)
        partly = tuple(kind for kind in set(one.classes.tolist()) if draw.random() < 0.4)
        federated.append(Objects(one.boxes, one.classes, one.areas, np.zeros_like(one.crowd), absent, partly))
    said = list[Found]()
    for place, one in enumerate(found):  # of every class, and no ties, whose order is not defined
        boxes, count = np.concatenate([one.boxes, one.boxes]), 2 * len(one.boxes)
        kinds = np.concatenate([one.classes, draw.integers(0, 6, len(one.boxes))])
        copies = 2 if place == 0 else 1  # more than 300 in one image
        scores = draw.permutation(copies * count) / (copies * count) + 0.0001 * place
        said.append(Found(np.tile(boxes, (copies, 1)), np.tile(kinds, copies), scores))
    return federated, said


@pytest.mark.parametrize("seed", range(4))
def test_the_federated_precision_is_that_of_loops(seed: int) -> None:
    federated, said = as_of_lvis(seed)
    frequencies = ["r", "c", "f", "r", "c", "f"]
    numbers, each = average_precision(federated, said, classes=6, frequencies=frequencies)
    wanted = of_lvis(federated, said, 6)
    np.testing.assert_allclose(each, wanted, atol=1e-7)
    assert numbers["AP"] == pytest.approx(np.nanmean(wanted))
    rare = [wanted[kind] for kind in (0, 3) if not np.isnan(wanted[kind])]
    assert numbers["APr"] == pytest.approx(np.mean(rare) if rare else np.nan, nan_ok=True)


def test_ids_are_those_that_are_given() -> None:
    ids = Ids((7, 9), (90, 3), ("toothbrush", "car"))
    nothing = Objects(np.empty((0, 4)), np.empty(0, int), np.empty(0), np.empty(0, bool))
    one = Objects(np.array([[1.0, 2, 4, 8]]), np.zeros(1, int), np.array([18.0]), np.zeros(1, bool))
    said = plain([nothing, one], ids)
    assert [image["id"] for image in said["images"]] == [7, 9]
    assert [(mark["image_id"], mark["category_id"], mark["bbox"]) for mark in said["annotations"]] == [
        (9, 90, [1, 2, 3, 6])
    ]
    assert said["categories"] == [{"id": 90, "name": "toothbrush"}, {"id": 3, "name": "car"}]
