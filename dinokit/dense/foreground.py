"""Foreground or not, patch by patch: a logistic regression, then a median over 3 x 3 patches; and how it is drawn.

Source: the foreground segmentation published with DINOv3 (arXiv:2508.10104).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from jaxtyping import Bool, Float
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
Solution = tuple[Float[Tensor, " width"], Float[Tensor, ""]]


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


def logistic(
    samples: Float[Tensor, "sample width"],
    truth: Bool[Tensor, " sample"],
    *,
    c: float,
    start: Solution | None = None,
    iterations: int = 1000,
) -> Solution:
    """Return (weights, intercept) of a binary logistic regression in float64, exact and without a learning rate.

    Minimises ||w||^2 / 2 + C sum_i log(1 + exp(-y_i (w x_i + b))), y in {-1, 1}, by L-BFGS; b is not penalised.

    Args:
        c: the weight of the data against the penalty.
        start: where to begin, such as the solution for another c.
        iterations: at most.
    """
    samples, targets = samples.double(), truth.double()
    begin = samples.new_zeros(samples.shape[1] + 1) if start is None else torch.cat([start[0], start[1][None]])
    parameters = begin.clone().requires_grad_(True)
    small = min(c, 1.0)  # the data pull that little; a fixed tolerance would end before the intercept has moved
    optimiser: torch.optim.Optimizer = torch.optim.LBFGS(
        [parameters],
        max_iter=iterations,
        tolerance_grad=1e-6 * small,
        tolerance_change=1e-12 * small,
        line_search_fn="strong_wolfe",
    )

    def loss() -> float:
        optimiser.zero_grad()
        with torch.enable_grad():
            logits = samples @ parameters[:-1] + parameters[-1]
            errors = F.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
            # divided by c where that is large: gradients then stop at the same size for all c
            value = ((parameters[:-1] ** 2).sum() / 2 + c * errors) / max(c, 1.0)
            torch.autograd.backward(value)
        return value.item()

    optimiser.step(loss)
    return parameters.detach()[:-1], parameters.detach()[-1]


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
