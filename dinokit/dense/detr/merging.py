"""Detections of an image that was seen several times, as one list: Soft-NMS.

The best box stays, the scores of all others of its class fall by exp(-IoU^2 / sigma), and so on with the best of the
rest, until none is above a least score. Unlike plain suppression, nothing that overlaps is lost at once, so two things
that stand close together keep a box each. Source: Bodla et al. 2017 (arXiv:1704.04503), the Gaussian kernel, whose
sigma is 0.5; DINOv3 (arXiv:2508.10104) merges eight sizes and their mirrors so, without saying its sigma.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dinokit.dense.detr.boxes import overlap

SIGMA = 0.5
LEAST = 1e-3  # score


def soft_nms(
    boxes: Float[Tensor, "found 4"],
    scores: Float[Tensor, " found"],
    classes: Int64[Tensor, " found"],
    *,
    most: int | None = None,
) -> tuple[Int64[Tensor, " kept"], Float[Tensor, " kept"]]:
    """Return what is kept, the best first, and its new scores.

    Args:
        most: detections to keep.
    """
    left, kept, values = scores.clone(), list[Tensor](), list[Tensor]()
    while len(kept) < (len(left) if most is None else most) and len(left):
        value, best = left.max(dim=0)
        if value < LEAST:
            break
        kept.append(best)
        values.append(value)
        iou, _ = overlap(boxes[best], boxes)
        left = left * torch.where(classes == classes[best], torch.exp(-(iou**2) / SIGMA), 1.0)
        left[best] = -1.0
    if not kept:
        return torch.empty(0, dtype=torch.int64), scores[:0]
    return torch.stack(kept), torch.stack(values)
