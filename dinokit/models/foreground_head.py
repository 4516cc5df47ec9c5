"""Foreground or not, patch by patch: a logistic regression, then a median over 3 x 3 patches.

Source: the foreground segmentation published with DINOv3 (arXiv:2508.10104).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from dinokit.core.errors import UserError
from dinokit.models.features import Features


@dataclass(frozen=True, kw_only=True)
class Config:
    """Sizes of a foreground head."""

    width: int  # numbers per patch


class ForegroundHead(nn.Module):
    """Features of one layer -> the probability of foreground of every patch."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.linear = nn.Linear(config.width, 1)

    def forward(self, features: Sequence[Features]) -> Float[Tensor, "batch 1 rows columns"]:
        """Weigh every patch.

        Raises:
            UserError: if the features are of another width than the head.
        """
        (layer,) = features
        if layer.patches.shape[-1] != self.config.width:
            raise UserError(
                f"the head takes {self.config.width} numbers per patch, got {layer.patches.shape[-1]}; it belongs to "
                "another model"
            )
        logits: Tensor = self.linear(layer.patches.float())[..., 0]  # [batch, patch]
        return median(torch.unflatten(torch.sigmoid(logits), 1, layer.grid)[:, None])


def median(maps: Float[Tensor, "batch 1 rows columns"]) -> Float[Tensor, "batch 1 rows columns"]:
    """Replace each value by the median of its 3 x 3 neighbours, zeros beyond the border (as scipy's medfilt2d)."""
    around = F.pad(maps, (1, 1, 1, 1)).unfold(2, 3, 1).unfold(3, 3, 1)  # [batch, 1, rows, columns, 3, 3]
    return around.flatten(4).median(dim=4).values
