"""What every backbone returns, and what a backbone is.

Training, probing and export all see the same four values, so a loss or an evaluation written once works on a ViT, on a
ConvNet and on raw pixels. Token order inside our transformers is [CLS, registers, patches], as in DINOv2 with registers
(arXiv:2309.16588) and DINOv3 (arXiv:2508.10104).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dinokit.core.errors import UserError


@dataclass(frozen=True)
class Features:
    """Normalised output tokens of a backbone; patches are row-major over `grid` = (rows, columns).

    `width` equals `dim` for every network; only raw pixels have patches narrower than their CLS.
    """

    cls: Float[Tensor, "*batch dim"]
    registers: Float[Tensor, "*batch register dim"]
    patches: Float[Tensor, "*batch patch width"]
    grid: tuple[int, int]

    @property
    def maps(self) -> Float[Tensor, "*batch width rows columns"]:
        """The patches as an image of vectors."""
        return torch.unflatten(self.patches.transpose(-1, -2), -1, self.grid)

    def unflatten(self, views: int) -> "Features":
        """Split the leading axis: [view*batch, ...] -> [view, batch, ...] (crop-major)."""
        return self._each(lambda tokens: torch.unflatten(tokens, 0, (views, -1)))

    def flatten(self) -> "Features":
        """Join the two leading axes: [view, batch, ...] -> [view*batch, ...] (crop-major)."""
        return self._each(lambda tokens: tokens.flatten(0, 1))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Features":
        return Features(change(self.cls), change(self.registers), change(self.patches), self.grid)


@dataclass(frozen=True)
class Pixels:
    """What the images of a backbone must look like; the defaults are the statistics of ImageNet."""

    mean: tuple[float, ...] = (0.485, 0.456, 0.406)  # subtracted from values in [0, 1]; per channel, or one for all
    std: tuple[float, ...] = (0.229, 0.224, 0.225)  # then divided by; per channel, or one for all
    size: int | None = None  # side in pixels for evaluation; None keeps the native size

    def __post_init__(self) -> None:
        if not self.mean or len(self.mean) != len(self.std):
            raise UserError(f"pixels need as many means as stds, got {len(self.mean)} and {len(self.std)}")
        if min(self.std) <= 0:
            raise UserError(f"pixels.std must be positive, got {self.std}")
        if self.size is not None and self.size < 1:
            raise UserError(f"pixels.size must be a side in pixels or null, got {self.size}")


class Backbone(nn.Module, ABC):
    """Images -> Features. A subclass sets the four attributes and nothing about crops, teachers or losses."""

    dim: int  # width of the CLS token
    patch_size: int  # side of a patch in pixels
    channels: int
    pixels: Pixels
    __call__: Callable[..., Features]

    @abstractmethod
    def forward(
        self,
        images: Float[Tensor, "batch channel height width"],
        *,
        masks: Bool[Tensor, "batch patch"] | None = None,
        local: bool = False,
    ) -> Features:
        """Embed normalised images; masks are True where a patch is HIDDEN; local marks local crops in training."""

    @abstractmethod
    def intermediate(
        self, images: Float[Tensor, "batch channel height width"], layers: int | Sequence[int], *, norm: bool = True
    ) -> tuple[Features, ...]:
        """Return the features after some blocks: the last `layers` of them, or those of the given indices, in order.

        norm: pass each of them through the final norm.
        """
