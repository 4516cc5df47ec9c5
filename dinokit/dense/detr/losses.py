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

import numpy
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from dinokit.core.numbers import at_least
from dinokit.dense.detr import boxes as box
from dinokit.dense.detr.matching import ALPHA, GAMMA, Answers, Objects, assigned, cost

AT_ONCE = 1 << 20  # costs that are made at once; what they are made of takes thirty times their memory


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What each term counts."""

    kind: Literal["focal", "ia-bce"] = "focal"  # of the class
    classes: float = at_least(0, 2.0)
    deltas: float = at_least(0, 1.0)
    boxes: float = at_least(0, 2.0)


@dataclass(frozen=True)
class Terms:
    """The terms of a loss with their weights, not yet divided by the number of objects."""

    classes: Float[Tensor, ""]
    boxes: Float[Tensor, ""]
    deltas: Float[Tensor, ""]
    objects: int

    @property
    def total(self) -> Float[Tensor, ""]:
        """Return the loss."""
        return (self.classes + self.boxes + self.deltas) / self.objects

    @property
    def told(self) -> dict[str, Float[Tensor, ""]]:
        """Return what each term counts, for people."""
        named = {"class": self.classes, "boxes": self.boxes, "deltas": self.deltas}
        return {name: value.detach() / self.objects for name, value in named.items()}


def terms(answers: Answers, objects: Sequence[Objects], weights: Weights, *, repeats: int = 1) -> Terms:
    """Return the terms of the loss of what layers say of a batch: the sums over layers.

    Args:
        answers: [layer, image, query].
        objects: of every image.
        repeats: how many queries answer for an object.
    """
    where, there = _matched(answers, objects, repeats=repeats)
    named = (*where, there.classes)
    target = torch.zeros_like(answers.logits)
    target[named] = 1.0
    iou, giou = box.overlap(answers.boxes[where], there.boxes)
    if weights.kind == "focal":
        classes = focal(answers.logits, target)
    else:
        quality = torch.zeros_like(answers.logits)
        quality[named] = iou.detach().clamp(min=0)
        classes = ia_bce(answers.logits, target, quality)
    wanted = box.deltas(answers.references[where], there.boxes)
    return Terms(
        weights.classes * classes.sum(),
        weights.boxes * (1 - giou).sum(),
        weights.deltas * (answers.deltas[where] - wanted).abs().sum(),
        max(sum(map(len, objects)) * repeats, 1),
    )


def _matched(
    answers: Answers, objects: Sequence[Objects], *, repeats: int
) -> tuple[tuple[Int64[Tensor, " pair"], ...], Objects]:
    """Return the layer, the image and the query of every pair, and the object it answers for."""
    counts = [len(each) for each in objects]
    every = Objects(torch.cat([each.boxes for each in objects]), torch.cat([each.classes for each in objects]))
    numbers = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)).to(answers.logits.device)
    some = max(1, AT_ONCE // max(1, answers.logits[:, 0, :, 0].numel()))  # a small map leaves none for many
    parts = (slice(start, start + some) for start in range(0, max(len(every), 1), some))
    each_cost = [cost(answers, Objects(every.boxes[part], every.classes[part]), numbers[part]) for part in parts]
    costs, first, found = torch.cat(each_cost).cpu().numpy(), 0, []
    for image, count in enumerate(counts):
        for layer, each in enumerate(costs[first : first + count].transpose(1, 2, 0)):
            queries, which = assigned(each, repeats=repeats)
            place = [numpy.full_like(queries, value) for value in (layer, image)]
            found.append(numpy.stack([*place, queries, first + which]))
        first += count
    *where, which = torch.from_numpy(numpy.concatenate(found, axis=1)).to(answers.logits.device)
    return tuple(where), Objects(every.boxes[which], every.classes[which])


def focal(
    logits: Float[Tensor, "*batch class"], target: Float[Tensor, "*batch class"]
) -> Float[Tensor, "*batch class"]:
    """Return the focal loss of every class of every query; the target is 1 or 0."""
    chance = logits.sigmoid()
    plain = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    missed = torch.where(target > 0, 1 - chance, chance)
    return torch.where(target > 0, ALPHA, 1 - ALPHA) * missed**GAMMA * plain


def ia_bce(
    logits: Float[Tensor, "*batch class"],
    target: Float[Tensor, "*batch class"],
    quality: Float[Tensor, "*batch class"],
) -> Float[Tensor, "*batch class"]:
    """Return the loss by which a score learns how well its box lies; the target is 1 or 0, the quality an IoU."""
    chance = logits.sigmoid()
    wanted = (chance.detach() ** ALPHA * quality ** (1 - ALPHA)).clamp(min=0.01)  # never learnt to be nothing
    right = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    wrong = chance**GAMMA * F.binary_cross_entropy_with_logits(logits, torch.zeros_like(logits), reduction="none")
    return torch.where(target > 0, right, wrong)
