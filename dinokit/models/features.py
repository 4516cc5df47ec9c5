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

from dinokit.core.pixels import Pixels


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
