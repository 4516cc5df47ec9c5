"""Boxes as tensors: against naive sums, and there and back."""

import pytest
import torch
from torchvision import ops

from dinokit.dense.detr import boxes as box


def drawn(count: int, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    corner, side = torch.rand(count, 2, generator=draw) * 50, torch.rand(count, 2, generator=draw) * 40 + 1
    return torch.cat([corner, corner + side], dim=1)


def test_overlaps_are_those_of_torchvision() -> None:
    first, second = drawn(6), drawn(7, seed=1)
    iou, giou = box.overlap(first[:, None], second[None])
    torch.testing.assert_close(iou, ops.box_iou(first, second))
    torch.testing.assert_close(giou, ops.generalized_box_iou(first, second))


def test_boxes_apart_differ_by_their_hull() -> None:
    first, second = torch.tensor([0.0, 0, 10, 10]), torch.tensor([20.0, 0, 30, 10])
    iou, giou = box.overlap(first, second)
    assert (iou.item(), giou.item()) == pytest.approx((0, -100 / 300))


def test_deltas_lead_to_their_target() -> None:
    first, second = drawn(9), drawn(9, seed=1)
    torch.testing.assert_close(box.moved(first, box.deltas(first, second)), second)


def test_a_delta_of_sides_is_a_logarithm_and_bounded() -> None:
    reference = torch.tensor([10.0, 20, 30, 60])  # centre 20, 40; 20 x 40
    found = box.moved(reference, torch.tensor([0.5, -0.25, 0.0, 100.0]))
    torch.testing.assert_close(box.centred(found), torch.tensor([30.0, 30, 20, 40 * 1000 / 16]))


def test_a_box_without_sides_has_finite_overlaps_and_deltas() -> None:
    point, other = torch.tensor([5.0, 5, 5, 5], requires_grad=True), torch.tensor([5.0, 5, 5, 5])
    _, giou = box.overlap(point, other)
    (giou + box.deltas(point, other).sum()).backward()
    assert point.grad is not None
    assert point.grad.isfinite().all()


def test_a_reference_without_sides_leads_anywhere() -> None:
    """As one that was cut at the border; what it is led by stays within the size of an image."""
    point, target = torch.tensor([100.0, 40, 100, 40]), torch.tensor([95.0, 20, 115, 60])
    needed = box.deltas(point, target)
    torch.testing.assert_close(box.moved(point, needed), target)
    assert needed.abs().max() < 100


def test_a_mirror_of_a_mirror_is_the_box() -> None:
    found = box.mirrored(drawn(4), 100.0)
    assert (found[:, 2] > found[:, 0]).all()
    torch.testing.assert_close(box.mirrored(found, 100.0), drawn(4))
