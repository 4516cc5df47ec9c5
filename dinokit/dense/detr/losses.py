"""What a detector learns from: classes, deltas and boxes of the queries that answer for an object.

    class    focal (arXiv:1708.02002): -alpha (1 - p)^gamma log p for the object's class,
             -(1 - alpha) p^gamma log(1 - p) for all others, alpha 0.25, gamma 2;
             or, where boxes are judged too, IA-BCE (Align-DETR, arXiv:2304.07527): BCE(p, t) with
             t = p^0.25 IoU^0.75 for the object's class, p^2 BCE(p, 0) for all others
    deltas   the sum of |deltas - deltas of the object|
    box      1 - GIoU

Each is summed over queries and divided by the number of objects of the whole batch. Source: Plain-DETR
(arXiv:2308.01904), DINOv3 (arXiv:2508.10104, appendix D.9).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from dinokit.core.numbers import at_least
from dinokit.dense.detr import boxes as box
from dinokit.dense.detr.matching import ALPHA, GAMMA, Answers, Objects, assigned


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What each term counts."""

    kind: Literal["focal", "ia-bce"] = "focal"  # of the class
    classes: float = at_least(0, 2.0)
    deltas: float = at_least(0, 1.0)
    boxes: float = at_least(0, 2.0)


def loss(answers: Answers, objects: Sequence[Objects], weights: Weights, *, repeats: int = 1) -> Float[Tensor, ""]:
    """Return the loss of what a layer says of a batch.

    Args:
        objects: of every image.
        repeats: how many queries answer for an object.
    """
    total = answers.logits.new_zeros(())
    for image, there in enumerate(objects):
        said, there = answers.of(image), there.repeated(repeats)
        queries, which = assigned(said, there)
        reached, references = said.boxes[queries], said.references[queries]
        iou, giou = box.overlap(reached, there.boxes[which])
        wanted = box.deltas(references, there.boxes[which])
        target = torch.zeros_like(said.logits)
        target[queries, there.classes[which]] = 1.0
        if weights.kind == "focal":
            named = focal(said.logits, target)
        else:
            quality = torch.zeros_like(said.logits)
            quality[queries, there.classes[which]] = iou.detach().clamp(min=0)
            named = ia_bce(said.logits, target, quality)
        total = total + weights.classes * named.sum()
        total = total + weights.deltas * (said.deltas[queries] - wanted).abs().sum()
        total = total + weights.boxes * (1 - giou).sum()
    return total / max(sum(map(len, objects)) * repeats, 1)


def focal(logits: Float[Tensor, "query class"], target: Float[Tensor, "query class"]) -> Float[Tensor, "query class"]:
    """Return the focal loss of every class of every query; the target is 1 or 0."""
    chance = logits.sigmoid()
    plain = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    missed = torch.where(target > 0, 1 - chance, chance)
    return torch.where(target > 0, ALPHA, 1 - ALPHA) * missed**GAMMA * plain


def ia_bce(
    logits: Float[Tensor, "query class"],
    target: Float[Tensor, "query class"],
    quality: Float[Tensor, "query class"],
) -> Float[Tensor, "query class"]:
    """Return the loss by which a score learns how well its box lies; the target is 1 or 0, the quality an IoU."""
    chance = logits.sigmoid()
    wanted = (chance.detach() ** ALPHA * quality ** (1 - ALPHA)).clamp(min=0.01)  # never learnt to be nothing
    right = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    wrong = chance**GAMMA * F.binary_cross_entropy_with_logits(logits, torch.zeros_like(logits), reduction="none")
    return torch.where(target > 0, right, wrong)
