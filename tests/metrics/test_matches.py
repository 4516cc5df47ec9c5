"""Matching and precision against faster-coco-eval, which equals pycocotools (test_detection.py)."""

import numpy as np
import pytest

from dinokit.metrics import matches
from dinokit.metrics.detection import Found, Objects, average_precision
from dinokit.metrics.matches import Ranked, curves, interval, match, precision, ranked
from tests.metrics.test_detection import as_of_lvis, drawn


def ranks(objects: list[Objects], found: list[Found], classes: int) -> list[Ranked]:
    matched = [match(*pair) for pair in zip(objects, found, strict=True)]
    return ranked(objects, found, matched, classes=classes)


@pytest.mark.parametrize("seed", range(30))
def test_precision_is_that_of_coco(seed: int) -> None:
    objects, found, classes = drawn(seed)
    numbers, each = average_precision(objects, found, classes=classes)
    every = ranks(objects, found, classes)
    levels = 100 * curves(every).mean(axis=1)
    wanted = [numbers[name] for name in ("AP", "AP50", "AP75")]
    np.testing.assert_allclose([levels.mean(), levels[0], levels[5]], wanted, atol=1e-9)
    own = [100 * precision(one, np.ones((1, len(objects)), dtype=np.int64)).mean() for one in every]
    np.testing.assert_allclose(own, each, atol=1e-9)


@pytest.mark.parametrize("seed", range(10))
def test_images_that_count_several_times_are_as_if_they_were_there_so_often(seed: int) -> None:
    objects, found, classes = drawn(seed)
    draw = np.random.default_rng(seed)
    # no equal scores: of those within an image a copy would come behind all of the image
    found = [Found(one.boxes, one.classes, draw.random(len(one.scores))) for one in found]
    times = draw.integers(0, 3, len(objects))
    several = [place for place, count in enumerate(times) for _ in range(count)] or [0]
    times = np.bincount(several, minlength=len(objects))
    numbers, _ = average_precision([objects[p] for p in several], [found[p] for p in several], classes=classes)
    mean = matches._mean(ranks(objects, found, classes), np.stack([times, times + 1]))[0].mean()
    np.testing.assert_allclose(100 * mean, numbers["AP"], atol=1e-9)


def test_the_interval_is_around_the_number_and_narrower_with_more_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matches, "DRAWS", 200)
    sets = [drawn(seed) for seed in range(12)]
    objects, found = ([one for each in sets for one in each[place]] for place in (0, 1))
    every = ranks(objects, found, 4)
    ends, value = interval(every)["AP"], 100 * float(curves(every).mean())
    assert ends[0] < value < ends[1]
    assert interval(every) == interval(every)
    twice = interval(ranks(objects * 4, found * 4, 4))["AP"]
    assert 0.2 < (twice[1] - twice[0]) / (ends[1] - ends[0]) < 0.75  # about a half, the root of 4


def test_one_image_says_nothing_of_others() -> None:
    objects, found, classes = drawn(0)
    assert interval(ranks(objects[:1], found[:1], classes)) == {}


def test_a_draw_without_an_object_has_no_precision() -> None:
    nothing = Objects(np.empty((0, 4)), np.empty(0, int), np.empty(0), np.empty(0, bool))
    found = Found(np.array([[0.0, 0, 9, 9]]), np.zeros(1, int), np.ones(1))
    assert np.isnan(curves(ranks([nothing], [found], 1))).all()


@pytest.mark.parametrize("seed", range(4))
def test_precision_of_lvis_is_its_own(seed: int) -> None:
    objects, found = as_of_lvis(seed)
    matched = [match(*pair, federated=True) for pair in zip(objects, found, strict=True)]
    every = ranked(objects, found, matched, classes=6)
    _, each = average_precision(objects, found, classes=6, frequencies=["f"] * 6)
    own = [100 * precision(one, np.ones((1, len(objects)), dtype=np.int64)).mean() for one in every]
    np.testing.assert_allclose(own, each, atol=1e-9)


def test_what_is_not_known_of_an_image_of_lvis_is_not_wrong() -> None:
    """Class 0 is there, 1 is not, of 2 some are drawn only, of 3 nobody knows."""
    boxes = np.array([[0.0, 0, 9, 9], [20, 20, 29, 29]])
    objects = Objects(boxes, np.array([0, 2]), np.full(2, 81.0), np.zeros(2, bool), (1,), (2,))
    said = np.array([[0.0, 0, 9, 9], [50, 50, 59, 59], [20, 20, 29, 29], [50, 50, 59, 59]])
    found = Found(np.concatenate([said, said]), np.array([0, 1, 2, 3, 0, 1, 2, 3]), np.arange(8, 0, -1) / 8)
    one = match(objects, found, federated=True)
    assert one.right[0].tolist() == [True, False, True, False, False, False, False, False]
    assert one.wrong[0].tolist() == [False, True, False, False, True, True, False, False]
