"""A linear classifier on a frozen backbone, as the papers measure and release it.

What it sees is a `Reading` of the backbone's output: CLS of the last blocks, the earliest first, each through the final
norm, then perhaps the mean of the patches of the last (DINO, arXiv:2104.14294, appendix; DINOv2, arXiv:2304.07193,
section 7.1).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dinokit.core.messages import UserError
from dinokit.models.features import Backbone


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a classifier sees of an image."""

    blocks: int = 1  # CLS of so many last blocks; of stages, where there are no blocks
    mean_patch: bool = False  # and the mean of the patches of the last
    interleaved: bool = False  # cls_0, mean_0, cls_1, mean_1, ... instead of one behind the other; for one block

    def __post_init__(self) -> None:
        if self.interleaved and (self.blocks != 1 or not self.mean_patch):
            raise UserError("only CLS and the mean patch of one block can be interleaved")

    @property
    def vectors(self) -> int:
        """How many vectors of the backbone's width are put together."""
        return self.blocks + self.mean_patch

    def __call__(
        self, backbone: Backbone, images: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch feature"]:
        """Compute it for normalised images, in float32."""
        layers = backbone.intermediate(images, self.blocks)
        seen = [features.cls.float() for features in layers]
        if self.mean_patch:
            seen.append(layers[-1].patches.float().mean(dim=1))  # [batch, dim]
        if self.interleaved:
            return torch.stack(seen, dim=-1).flatten(1)  # [batch, dim * 2]
        return torch.cat(seen, dim=-1)  # [batch, vectors * dim]


class Classifier(nn.Module):
    """Images -> logits."""

    def __init__(self, backbone: Backbone, linear: nn.Linear, reading: Reading) -> None:
        """Put a backbone and a linear layer together; UserError if that is of another width than the reading."""
        super().__init__()
        width = reading.vectors * backbone.dim
        if linear.in_features != width:
            raise UserError(f"expected a classifier on {width} numbers, got one on {linear.in_features}")
        self.backbone = backbone
        self.linear = linear
        self.reading = reading

    def forward(self, images: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch class"]:
        """Score the classes for images normalised as `backbone.pixels` says."""
        logits: Tensor = self.linear(self.reading(self.backbone, images).to(self.linear.weight.dtype))
        return logits
