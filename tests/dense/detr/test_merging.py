"""Soft-NMS against a naive loop, and what it keeps."""

import math

import torch
from torchvision import ops

from dinokit.dense.detr.merging import soft_nms
from tests.dense.detr.test_boxes import drawn


def test_scores_fall_as_a_loop_says() -> None:
    boxes = drawn(12)
    scores, classes = torch.rand(12, generator=torch.Generator().manual_seed(3)), torch.arange(12) % 2
    kept, values = soft_nms(boxes, scores, classes)
    left, wanted = scores.tolist(), []
    rest = set(range(12))
    while rest:
        best = max(rest, key=lambda place: left[place])
        if left[best] < 1e-3:
            break
        wanted.append((best, left[best]))
        rest.remove(best)
        for place in rest:
            if classes[place] == classes[best]:
                iou = ops.box_iou(boxes[best][None], boxes[place][None]).item()
                left[place] *= math.exp(-(iou**2) / 0.5)
    assert kept.tolist() == [place for place, _ in wanted]
    torch.testing.assert_close(values, torch.tensor([value for _, value in wanted]))


def test_equal_boxes_of_two_classes_both_stay() -> None:
    boxes = drawn(1).expand(2, -1)
    _, values = soft_nms(boxes, torch.tensor([0.9, 0.8]), torch.tensor([0, 1]))
    torch.testing.assert_close(values, torch.tensor([0.9, 0.8]))


def test_nothing_is_merged_to_nothing() -> None:
    kept, values = soft_nms(torch.empty(0, 4), torch.empty(0), torch.empty(0, dtype=torch.int64))
    assert (len(kept), len(values)) == (0, 0)
