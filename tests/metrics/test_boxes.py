"""Boxes: what two have in common, and whether one is where an object is."""

import numpy
import pytest

from dinokit.metrics.boxes import located, overlaps


def test_overlaps_are_what_shared_pixels_say() -> None:
    draw = numpy.random.default_rng(0)
    corners = draw.integers(0, 12, (2, 5, 2))
    boxes = numpy.concatenate([corners, corners + draw.integers(1, 9, (2, 5, 2))], axis=2)  # [2, box, 4]
    grids = numpy.zeros((2, 5, 24, 24), dtype=bool)
    for side in range(2):
        for place, (left, top, right, bottom) in enumerate(boxes[side].tolist()):
            grids[side, place, top:bottom, left:right] = True
    shared = (grids[0][:, None] & grids[1]).sum(axis=(2, 3))
    union = (grids[0][:, None] | grids[1]).sum(axis=(2, 3))
    assert (shared > 0).any()
    assert overlaps(boxes[0].astype(float), boxes[1].astype(float)) == pytest.approx(shared / union, abs=1e-12)


def test_boxes_without_area_share_nothing() -> None:
    assert overlaps(numpy.zeros((1, 4)), numpy.zeros((1, 4))).tolist() == [[0.0]]


def test_half_of_the_union_with_any_object_is_enough() -> None:
    truth = numpy.array([[50.0, 50, 60, 60], [0, 0, 10, 10]])
    found = numpy.array([[0.0, 0, 10, 5], [0, 0, 10, 4.9], [0, 0, 20, 10], [50, 50, 60, 60]])
    assert located(found, truth).tolist() == [True, False, True, True]


def test_an_image_without_objects_has_nothing_to_find() -> None:
    assert located(numpy.ones((2, 4)), numpy.empty((0, 4))).tolist() == [False, False]
