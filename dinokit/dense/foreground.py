"""Foreground or not, patch by patch: a logistic regression, then a median over 3 x 3 patches; and how it is drawn.

Source: the foreground segmentation published with DINOv3 (arXiv:2508.10104).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from dinokit.core.messages import UserError
from dinokit.dense import draw
from dinokit.dense.maps import resized
from dinokit.images import intensity
from dinokit.models.features import Features

FOLDERS = ("probabilities", "overlays")
DETAILS = ()  # nothing that drawing needs
COLOUR = (255, 64, 64)


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
        """Weigh every patch, which must have the width of the head."""
        (layer,) = features
        if layer.patches.shape[-1] != self.config.width:
            raise UserError(
                f"the head takes {self.config.width} numbers per patch, got {layer.patches.shape[-1]}; it belongs to "
                "another model"
            )
        logits: Tensor = self.linear(layer.patches.float())[..., 0]  # [batch, patch]
        return median(torch.unflatten(torch.sigmoid(logits), 1, layer.grid)[:, None])


HEADS = {"foreground": (Config, ForegroundHead)}


def median(maps: Float[Tensor, "batch 1 rows columns"]) -> Float[Tensor, "batch 1 rows columns"]:
    """Replace each value by the median of its 3 x 3 neighbours, zeros beyond the border (as scipy's medfilt2d)."""
    around = F.pad(maps, (1, 1, 1, 1)).unfold(2, 3, 1).unfold(3, 3, 1)  # [batch, 1, rows, columns, 3, 3]
    return around.flatten(4).median(dim=4).values


def pictures(
    values: Float[Tensor, "1 1 rows columns"], image: intensity.Image, details: Mapping[str, Any]
) -> dict[str, Image.Image]:
    """Draw the probability of foreground, 255 = 1, and the image with what is above 0.5 marked."""
    del details
    probability = resized(values, (image.shape[1], image.shape[2]))[0, 0].cpu().numpy()
    gray = (255 * probability).round().astype(numpy.uint8)
    colour = numpy.broadcast_to(numpy.array(COLOUR, dtype=numpy.uint8), (*probability.shape, 3))
    overlay = draw.mixed(draw.rgb(image), colour, 0.5 * (probability > 0.5))
    return {"probabilities": Image.fromarray(gray), "overlays": Image.fromarray(overlay)}


def legend(details: Mapping[str, Any]) -> Image.Image:
    """Draw what the mark of the overlays means."""
    del details
    return draw.legend(["foreground: probability above 0.5"], [COLOUR])
