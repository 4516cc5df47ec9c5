"""A network with a head that `dinokit evaluate --save` kept: what the file returns of normalised images.

    linear, attentive   logits, probabilities   [batch, class]
    segmentation        logits                  [batch, class, height, width]
                        mask                    [batch, height, width] int64, the class of every pixel
    depth               depth                   [batch, height, width], in metres
    foreground          probability             [batch, height, width]

It is what `dinokit predict` computes of one window: images that are no whole patches are padded inside. What predict
does around it - to which side it resizes, how it cuts windows, what classes are called - stands in the metadata.
The head itself computes in float32, whatever the network does.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from dinokit.core.files import digest_of_weights
from dinokit.core.messages import UserError, unknown_name
from dinokit.dense.heads import About as AboutHead
from dinokit.dense.maps import frozen, predictor
from dinokit.exports.outputs import About, Exported, Precision, about
from dinokit.models.features import Built

VALUES = {"segmentation": ("logits", "mask"), "depth": ("depth",), "foreground": ("probability",)}  # of pixels
SCORES = ("logits", "probabilities")  # of images, by heads of the tasks that are left
TASKS = ("linear", "attentive", *VALUES)


def about_headed(backbone: Built, head: nn.Module, of: AboutHead, outputs: tuple[str, ...], **how: Any) -> About:
    """Say what a file of a backbone and its head will hold; UserError if an output, or such a file, does not exist.

    Args:
        outputs: some of those of the task; none: all.
        how: as `about` takes it.
    """
    if of.task not in TASKS:
        raise UserError(f"a head of {of.task} finds no values of images or pixels; export takes {', '.join(TASKS)}")
    known = VALUES.get(of.task, SCORES)
    strange = [name for name in outputs if name not in known]
    if strange:
        raise unknown_name("output", ",".join(strange), known)
    told = about(backbone, ("cls",), **how)
    return replace(
        told,
        outputs=outputs or known,
        task=of.task,
        head=digest_of_weights(head),
        details=dict(of.details),
        short=of.short,
        crop=of.crop,
        stride=of.stride,
        size=of.crop or told.size,
    )


@final
class Headed(Exported):
    """A backbone and a head: what the names of the task say."""

    def __init__(
        self, backbone: Built, head: nn.Module, of: AboutHead, names: tuple[str, ...], precision: Precision = "fp32"
    ) -> None:
        super().__init__(backbone, names, precision)
        self.head: Any
        self.head, self.of = head, of

    def forward(self, images: Float[Tensor, "batch channel height width"]) -> tuple[Tensor, ...]:
        """Return what the names say."""
        found = (
            self._of_pixels(images) if self.of.task in VALUES else self.head(self.head.reading(self.backbone, images))
        )
        return _named(found, self.head, self.names)

    def _of_pixels(self, images: Float[Tensor, "batch channel height width"]) -> Tensor:
        """Return values of all pixels as dense.maps does, without a question about sizes, which a recording answers."""
        patch, sides = self.backbone.patch_size, images.shape[2:]
        wholes = [(side + patch - 1) // patch * patch for side in sides]
        before = [(whole - side) // 2 for whole, side in zip(wholes, sides, strict=True)]
        images = F.pad(images, (patch,) * 4)
        for axis in (0, 1):
            place = torch.arange(wholes[axis], device=images.device) + (patch - before[axis])
            images = images.index_select(2 + axis, place)
        values = self.head(self.backbone.intermediate(images, self.of.layers, norm=self.of.norm))
        values = F.interpolate(values, size=wholes, mode="bilinear", align_corners=False)
        for axis in (0, 1):
            place = torch.arange(sides[axis], device=images.device) + before[axis]
            values = values.index_select(2 + axis, place)
        return values


def expected(
    backbone: Built, head: Any, of: AboutHead, names: tuple[str, ...]
) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """Return what computes the same as `dinokit predict` does, to be compared with."""

    def found(images: Tensor) -> tuple[Tensor, ...]:
        with frozen(backbone):
            if of.task in VALUES:
                values = predictor(backbone, head, layers=of.layers, norm=of.norm)(images)
            else:
                values = head(head.reading(backbone, images))
            return _named(values, head, names)

    return found


def _named(found: Tensor, head: Any, names: tuple[str, ...]) -> tuple[Tensor, ...]:
    made: Mapping[str, Callable[[], Tensor]] = {
        "logits": lambda: found,
        "mask": lambda: found.argmax(dim=1),
        "depth": lambda: found[:, 0],
        "probability": lambda: found[:, 0],
        # a linear head of several classes of an image says each by itself
        "probabilities": lambda: found.sigmoid() if _is_several(head) else found.softmax(dim=1),
    }
    return tuple(made[name]() for name in names)


def _is_several(head: Any) -> bool:
    return getattr(head.config, "loss", "ce") == "bce"
