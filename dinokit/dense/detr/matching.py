"""Which query answers for which object: the assignment of the least cost, each object to one query or to several.

    cost = 2 (focal: right - wrong) + |deltas - deltas of the object|_1 - 2 GIoU

The first term is what the focal loss (alpha 0.25, gamma 2) of the object's class would be as a positive less what it
would be as a negative; deltas start from the reference of the query. Of objects that are to have several queries
(one-to-many, H-DETR, arXiv:2207.13080) each is repeated. Source: DETR (arXiv:2005.12872), Plain-DETR
(arXiv:2308.01904).
"""

from dataclasses import dataclass

import numpy
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from dinokit.core.messages import library
from dinokit.dense.detr import boxes as box

ALPHA, GAMMA = 0.25, 2.0


@dataclass(frozen=True)
class Objects:
    """What there is in an image."""

    boxes: Float[Tensor, "object 4"]  # corners, in pixels of the image as the detector sees it
    classes: Int64[Tensor, " object"]

    def __len__(self) -> int:
        return len(self.classes)

    def repeated(self, times: int) -> "Objects":
        """Return every object so many times."""
        return Objects(self.boxes.repeat(times, 1), self.classes.repeat(times))


@dataclass(frozen=True)
class Answers:
    """What the queries say of an image, or of a batch of images."""

    logits: Float[Tensor, "*batch query class"]
    references: Float[Tensor, "*batch query 4"]  # corners; without gradient
    deltas: Float[Tensor, "*batch query 4"]  # from the reference
    boxes: Float[Tensor, "*batch query 4"]  # corners

    def of(self, image: int) -> "Answers":
        """Return those of an image of the batch."""
        return Answers(*(each[image] for each in (self.logits, self.references, self.deltas, self.boxes)))

    def some(self, queries: slice) -> "Answers":
        """Return those of some queries."""
        return Answers(*(each[..., queries, :] for each in (self.logits, self.references, self.deltas, self.boxes)))


@torch.no_grad()
def cost(answers: Answers, objects: Objects) -> Float[Tensor, "query object"]:
    """Return what it costs that a query answers for an object."""
    logits = answers.logits[:, objects.classes]  # [query, object]
    chance = logits.sigmoid()
    right = ALPHA * (1 - chance) ** GAMMA * -F.logsigmoid(logits)
    wrong = (1 - ALPHA) * chance**GAMMA * -F.logsigmoid(-logits)
    wanted = box.deltas(answers.references[:, None], objects.boxes[None])  # [query, object, 4]
    apart = (answers.deltas[:, None] - wanted).abs().sum(dim=-1)
    _, giou = box.overlap(answers.boxes[:, None], objects.boxes[None])
    return 2 * (right - wrong) + apart - 2 * giou


def assigned(answers: Answers, objects: Objects) -> tuple[Int64[Tensor, " pair"], Int64[Tensor, " pair"]]:
    """Return queries and their objects, of the least cost in total; each object has one if queries suffice."""
    optimize = library("scipy.optimize", extra="detection")
    costs = cost(answers, objects).double().cpu().numpy()
    costs = numpy.nan_to_num(costs, nan=1e9, posinf=1e9, neginf=-1e9)  # a loss that is not finite is said elsewhere
    rows, columns = optimize.linear_sum_assignment(costs)
    device = answers.logits.device
    return torch.from_numpy(rows).to(device), torch.from_numpy(columns).to(device)
