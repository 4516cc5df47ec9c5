"""What a backbone and its head learn together from labels: images, what the two say of them, and how wrong that is.

Batches are functions of (seed, step), as those of heads alone (lesson.py, batches.py), whose crops these are.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from dinokit.dense.batches import crops_of
from dinokit.dense.fit import Loss
from dinokit.dense.grid import Loss as OfClasses
from dinokit.dense.lesson import Lesson, crops
from dinokit.dense.linear import LinearHead
from dinokit.dense.maps import at_pixels, encode
from dinokit.images import intensity
from dinokit.models.features import Backbone
from dinokit.sources.source import Source

# step from which on -> normalised images, and what the head should say of them, both on the backbone's device
Shown = Callable[[int], Iterator[tuple[Float[Tensor, "batch channel height width"], Tensor]]]


@dataclass(frozen=True)
class Course:
    """What is learnt by a whole network."""

    shown: Shown
    # the head of a backbone and normalised images -> what it says of them, with gradients
    answer: Callable[[Backbone, nn.Module, Float[Tensor, "batch channel height width"]], Any]
    loss: Loss


def of_pixels(backbone: Backbone, lesson: Lesson, *, batch_size: int) -> Course:
    """Return the crops of a lesson, of which the head says a value of every pixel."""
    drawn = crops(backbone, lesson, batch_size=batch_size)

    def shown(first: int) -> Iterator[tuple[Tensor, Tensor]]:
        step = first
        while True:
            pixels, targets = drawn(step)
            yield pixels.to(backbone.device), targets.to(backbone.device)
            step += 1

    def answer(backbone: Backbone, head: nn.Module, images: Tensor) -> Tensor:
        features, frame = encode(backbone, images, layers=lesson.layers)
        return at_pixels(head(features), frame)

    return Course(shown, answer, lesson.loss)


def of_images(
    backbone: Backbone,
    source: Source,
    targets: Shaped[Tensor, "image *class"],
    *,
    loss: OfClasses,
    batch: int,
    seed: int,
) -> Course:
    """Return random resized crops of labelled images, of which the head says the class.

    Args:
        source: images that can be read.
        targets: class numbers, or how much of each class is wanted; NaN: it counts neither way.
        loss: ce: one class of all; bce: each by itself.
    """
    drawn = crops_of(backbone, source, batch=batch, seed=seed)

    def shown(first: int) -> Iterator[tuple[Tensor, Tensor]]:
        for places, cut in drawn(first):
            images = intensity.normalised(intensity.to_unit(cut.to(backbone.device)), backbone.pixels)
            yield images, targets[places].to(backbone.device)

    def answer(backbone: Backbone, head: nn.Module, images: Tensor) -> Tensor:
        assert isinstance(head, LinearHead)
        return head(head.reading(backbone, images))  # type: ignore[no-any-return]

    def wrong(scores: Tensor, wanted: Tensor, _: int) -> Tensor:
        if loss == "ce":
            return F.cross_entropy(scores, wanted)
        counts = ~wanted.isnan()
        each = F.binary_cross_entropy_with_logits(scores, wanted.nan_to_num(0.0), reduction="none")
        return torch.where(counts, each, 0.0).mean()

    return Course(shown, answer, wrong)
