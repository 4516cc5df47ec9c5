"""Boxes of a detector: corners and centres, what two have in common, and the way from one to another.

A box is left, top, right, bottom in pixels, where edges lie, or (centred) centre x, centre y, width, height.

A detector says a box by its deltas from a reference (reparameterisation, R-CNN arXiv:1311.2524, as Plain-DETR
arXiv:2308.01904 takes it): x = x0 + dx w0, y = y0 + dy h0, w = w0 exp(dw), h = h0 exp(dh), so that an error counts by
the size of the reference and no box has a negative side.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

LARGEST = math.log(1000 / 16)  # of |dw| and |dh|
LEAST = 1.0  # pixels that a side of a reference counts as at least: of none nothing could lead away
SMALLEST = 1e-6  # pixels, where they divide

Boxes = Float[Tensor, "*batch 4"]
Either = Float[Tensor, "*#batch 4"]  # stands against another by broadcasting


def centred(corners: Boxes) -> Boxes:
    """Return centres and sizes of boxes given by their corners."""
    first, last = corners[..., :2], corners[..., 2:]
    return torch.cat([(first + last) / 2, last - first], dim=-1)


def corners(centred: Boxes) -> Boxes:
    """Return corners of boxes given by their centres and sizes."""
    middle, half = centred[..., :2], centred[..., 2:] / 2
    return torch.cat([middle - half, middle + half], dim=-1)


def moved(reference: Either, deltas: Either) -> Boxes:
    """Return where deltas lead from references; all by corners."""
    start = centred(reference)
    middle, size = start[..., :2], start[..., 2:].clamp(min=LEAST)
    sides = size * deltas[..., 2:].clamp(-LARGEST, LARGEST).exp()
    return corners(torch.cat([middle + deltas[..., :2] * size, sides], dim=-1))


def deltas(reference: Either, target: Either) -> Boxes:
    """Return what leads from references to targets; the inverse of `moved`. Boxes are given by their corners."""
    start, goal = centred(reference), centred(target)
    size = start[..., 2:].clamp(min=LEAST)
    shift = (goal[..., :2] - start[..., :2]) / size
    return torch.cat([shift, (goal[..., 2:].clamp(min=SMALLEST) / size).log()], dim=-1)


def inside(boxes: Either, size: Float[Tensor, "*#batch 2"]) -> Boxes:
    """Cut boxes to images of (width, height) pixels."""
    return boxes.clamp(min=0).minimum(torch.cat([size, size], dim=-1))


def mirrored(boxes: Boxes, width: int | float) -> Boxes:
    """Return boxes of an image that is mirrored left to right."""
    left, top, right, bottom = boxes.unbind(-1)
    return torch.stack([width - right, top, width - left, bottom], dim=-1)


def overlap(first: Either, second: Either) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """Return intersection over union, and its generalisation, of boxes that stand against each other, by broadcasting.

    GIoU = IoU - (hull - union) / hull, in (-1, 1]: what does not touch still differs (arXiv:1902.09630).
    """
    shared = _area(torch.maximum(first[..., :2], second[..., :2]), torch.minimum(first[..., 2:], second[..., 2:]))
    union = _area(first[..., :2], first[..., 2:]) + _area(second[..., :2], second[..., 2:]) - shared
    hull = _area(torch.minimum(first[..., :2], second[..., :2]), torch.maximum(first[..., 2:], second[..., 2:]))
    iou = shared / union.clamp(min=SMALLEST)
    return iou, iou - (hull - union) / hull.clamp(min=SMALLEST)


def _area(first: Float[Tensor, "*batch 2"], last: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch"]:
    return (last - first).clamp(min=0).prod(dim=-1)
