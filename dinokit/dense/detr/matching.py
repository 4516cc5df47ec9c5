"""Which query answers for which object: the assignment of the least cost, each object to one query or to several.

    cost = 2 (focal: right - wrong) + |deltas - deltas of the object|_1 - 2 GIoU

The first term is what the focal loss (alpha 0.25, gamma 2) of the object's class would be as a positive less what it
would be as a negative; deltas start from the reference of the query. Of objects that are to have several queries
(one-to-many, H-DETR, arXiv:2207.13080) each is repeated. Source: DETR (arXiv:2005.12872), Plain-DETR
(arXiv:2308.01904).
"""

from dataclasses import dataclass
from typing import Any

import numpy
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from dinokit.core.messages import library
from dinokit.dense.detr import boxes as box

ALPHA, GAMMA = 0.25, 2.0
IMPOSSIBLE = 1e8  # cost


@dataclass(frozen=True)
class Objects:
    """What there is in an image."""

    boxes: Float[Tensor, "object 4"]  # corners, in pixels of the image as the detector sees it
    classes: Int64[Tensor, " object"]

    def __len__(self) -> int:
        return len(self.classes)


@dataclass(frozen=True)
class Answers:
    """What queries say: of an image, of a batch of images, or of every layer of a decoder for a batch."""

    logits: Float[Tensor, "*batch query class"]
    references: Float[Tensor, "*batch query 4"]  # corners; without gradient
    deltas: Float[Tensor, "*batch query 4"]  # from the reference
    boxes: Float[Tensor, "*batch query 4"]  # corners

    def of(self, *where: Any) -> "Answers":
        """Return those of a layer, an image or some queries, as a tensor is indexed."""
        return Answers(*(each[where] for each in (self.logits, self.references, self.deltas, self.boxes)))


@torch.no_grad()
def cost(answers: Answers, objects: Objects, images: Int64[Tensor, " object"]) -> Float[Tensor, "object layer query"]:
    """Return what it costs that a query answers for an object.

    Args:
        answers: [layer, image, query].
        objects: of all images.
        images: the image that each is of, whose queries may answer for it.
    """
    logits = answers.logits[:, images, :, objects.classes]  # [object, layer, query]
    chance = logits.sigmoid()
    right = ALPHA * (1 - chance) ** GAMMA * -F.logsigmoid(logits)
    wrong = (1 - ALPHA) * chance**GAMMA * -F.logsigmoid(-logits)
    said = (answers.references, answers.deltas, answers.boxes)
    references, deltas, boxes = (each.transpose(0, 1)[images] for each in said)  # [object, layer, query, 4]
    there = objects.boxes[:, None, None]
    apart = (deltas - box.deltas(references, there)).abs().sum(dim=-1)
    _, giou = box.overlap(boxes, there)
    return 2 * (right - wrong) + apart - 2 * giou


def assigned(costs: Float[numpy.ndarray, "query object"], *, repeats: int = 1) -> Int64[numpy.ndarray, "2 pair"]:
    """Return queries and their objects, of the least cost in total; each object has `repeats` if queries suffice.

    What lies in padding costs more than IMPOSSIBLE and answers for nothing.
    """
    optimize = library("scipy.optimize", extra="detection")
    costs = numpy.nan_to_num(costs, nan=1e7, posinf=1e9, neginf=-1e9)  # a loss that is not finite is said elsewhere
    costs = numpy.tile(costs, repeats)
    queries, columns = optimize.linear_sum_assignment(costs)
    kept = costs[queries, columns] < IMPOSSIBLE
    return numpy.stack([queries[kept], columns[kept] % max(costs.shape[1] // repeats, 1)])
