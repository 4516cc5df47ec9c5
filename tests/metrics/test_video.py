"""J and F: hand cases, edge cases of the definition, and a disk made by distances."""

import math

import numpy as np
import pytest

from dinokit.metrics import video


def square(top: int, left: int, side: int, *, size: tuple[int, int] = (40, 60)) -> np.ndarray:
    mask = np.zeros(size, dtype=bool)
    mask[top : top + side, left : left + side] = True
    return mask


def series(values: np.ndarray, there: list[bool] | None = None) -> video.Series:
    return video.Series(values, values, np.ones(len(values), dtype=bool) if there is None else np.array(there))


def test_region_by_hand() -> None:
    assert video.region(square(0, 0, 10), square(0, 5, 10)) == pytest.approx(50 / 150)
    assert video.region(square(0, 0, 0), square(0, 0, 0)) == 1
    assert video.region(square(0, 0, 3), square(0, 0, 0)) == 0


def test_boundary_by_hand() -> None:
    mask = np.zeros((4, 4), dtype=bool)
    mask[1, 1] = True
    # the pixel, and those above, left, and above left of it, whose right, lower or lower right neighbour it is
    expected = np.zeros((4, 4), dtype=bool)
    expected[:2, :2] = True
    assert (video.boundary(mask) == expected).all()
    assert not video.boundary(np.ones((4, 4), dtype=bool)).any()  # the border of the image is none


@pytest.mark.parametrize("radius", [1, 2, 5, 8])
def test_a_mask_is_widened_by_a_disk(radius: int) -> None:
    mask = np.random.default_rng(radius).random((30, 41)) < 0.01
    points = np.argwhere(mask)
    grid = np.stack(np.mgrid[:30, :41], axis=-1)
    distance = np.linalg.norm(grid[:, :, None] - points, axis=-1).min(axis=-1)
    assert (video.widened(mask, radius) == (distance <= radius)).all()


def test_contour_forgives_small_shifts_and_nothing_else() -> None:
    size = (480, 854)
    assert math.ceil(video.TOLERANCE * math.hypot(*size)) == 8
    truth = square(100, 100, 200, size=size)
    assert video.contour(truth, truth) == 1
    assert video.contour(square(105, 105, 200, size=size), truth) == 1
    assert 0 < video.contour(square(112, 100, 200, size=size), truth) < 1
    assert video.contour(square(400, 700, 50, size=size), truth) == 0


def test_contour_of_masks_without_boundary() -> None:
    nothing, something = square(0, 0, 0), square(5, 5, 5)
    assert video.contour(nothing, nothing) == 1
    assert video.contour(nothing, something) == 0
    assert video.contour(something, nothing) == 0


def test_first_and_last_frames_do_not_count_and_an_object_counts_after_its_own() -> None:
    truth = [square(5, 5, 10).astype(int) for _ in range(4)]
    truth[2] = truth[2] + 2 * square(30, 30, 5)  # comes later
    found = [np.zeros_like(truth[0]), truth[1], np.zeros_like(truth[0]), np.zeros_like(truth[0])]
    each = video.scores(found, truth, {1: 0, 2: 2})
    assert each[1].j.tolist() == [1, 0]
    assert each[1].f.tolist() == [1, 0]
    assert len(each[2].j) == 0  # it enters in the last frame but one
    assert video.summary({"video/1": each[1]}) == {
        "J&F": 50, "J": 50, "J_recall": 50, "J_decay": 100, "F": 50, "F_recall": 50, "F_decay": 100,
    }  # fmt: skip


def test_every_object_counts_the_same_whatever_the_length_of_its_video() -> None:
    short, long = np.array([1.0]), np.array([0.0, 0.0, 0.0])
    assert video.summary({"a/1": series(short), "b/1": series(long)})["J"] == 50


def test_decay_is_of_quarters() -> None:
    falling = np.array([1.0, 1.0, 0.8, 0.6, 0.5, 0.4, 0.2, 0.2])
    assert video.summary({"a/1": series(falling)})["J_decay"] == pytest.approx(100 * (2.8 - 0.8) / 3)


def test_the_second_mose_adds_one_and_forgives_small_objects_less() -> None:
    truth, found = square(10, 10, 10, size=(480, 854)), square(10, 12, 10, size=(480, 854))
    assert video.region(found, truth, "mose2") == pytest.approx(81 / 121)
    assert video.region(square(0, 0, 0), square(0, 0, 0), "mose2") == 1
    assert video.region(square(0, 0, 3), square(0, 0, 0), "mose2") == pytest.approx(1 / 10)
    assert video.contour(found, truth) == 1  # within 8 pixels
    assert video.contour(found, truth, "mose2") < 0.8  # ceil(0.1 * 10) = 1 pixel
    large = square(10, 10, 400, size=(480, 854))
    assert video.contour(square(17, 10, 400, size=(480, 854)), large, "mose2") == 1  # 0.8 % of the diagonal: 7.8
    assert video.contour(square(18, 10, 400, size=(480, 854)), large, "mose2") < 1


def test_stretches_in_which_an_object_is_gone_or_back_are_means_of_their_own() -> None:
    there = [True, True, False, False, True, False, True, True]
    values = np.array([0.9, 0.9, 0.2, 0.4, 0.6, 1.0, 0.1, 0.3])
    found = video.summary({"a/1": series(values, there), "a/2": series(values)}, measure="mose2")
    assert found["J&F/gone"] == pytest.approx(100 * (0.3 + 1.0) / 2)
    assert found["J&F/back"] == pytest.approx(100 * (0.6 + 0.2) / 2)
    hidden_first = [False, True, True, True, True, True, True, True]
    only = video.summary({"a/1": series(values, hidden_first)}, measure="mose2")
    assert math.isnan(only["J&F/gone"])  # it was not there before
    assert only["J&F/back"] == pytest.approx(100 * values[1:].mean())
