"""Depth as an expectation over bins: z of every bin -> shares -> metres.

    b_k = evenly spaced from low to high, or evenly in log        p_k = link(z)_k / sum_j link(z)_j
    depth = sum_k p_k b_k                                         linear link: max(z, 0) + 0.1

With a single value per pixel there are no bins: depth = max(z, 0) + low.
Source: AdaBins (arXiv:2011.14141) section 3.3 with fixed bins, as DINOv2 (arXiv:2304.07193, section 7.4) uses them.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from dinokit.core.bounds import above, at_least
from dinokit.core.errors import UserError

_FLOOR = 0.1  # of the linear link: no bin is ever without a share


@dataclass(frozen=True, kw_only=True)
class Config:
    """The range of depths and how it is divided."""

    low: float = above(0, 1e-3)  # metres; nothing is nearer
    high: float = above(0, 10.0)  # metres; nothing is further
    count: int = at_least(1, 256)  # bins; 1: a value is a depth
    spacing: Literal["uniform", "log"] = "uniform"  # of the bins
    link: Literal["linear", "softmax", "sigmoid"] = "linear"  # from values to shares

    def __post_init__(self) -> None:
        if self.low >= self.high:
            raise UserError(f"a range of depths needs low < high, got {self.low} and {self.high}")


def decode(values: Float[Tensor, "batch bin rows columns"], config: Config) -> Float[Tensor, "batch 1 rows columns"]:
    """Return depth in metres."""
    if config.count == 1:
        return values.relu() + config.low
    match config.link:
        case "linear":
            weights = values.relu() + _FLOOR
        case "sigmoid":
            weights = values.sigmoid()
        case "softmax":
            weights = values.softmax(dim=1)
    shares = weights / weights.sum(dim=1, keepdim=True)
    return torch.einsum("bkrc,k->brc", shares, centres(config).to(values))[:, None]


def centres(config: Config) -> Float[Tensor, " bin"]:
    """Return the depth of every bin."""
    if config.spacing == "log":
        return torch.linspace(math.log(config.low), math.log(config.high), config.count).exp()
    return torch.linspace(config.low, config.high, config.count)
