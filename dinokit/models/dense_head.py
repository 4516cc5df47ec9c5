"""The linear dense head: every patch classified on its own, by one linear map of its normalised features.

[dropout of whole channels ->] batch norm -> 1 x 1 convolution, its weights N(0, 0.01), its bias 0, on the patches of
one or several layers, one behind the other. Source: DINOv2 (arXiv:2304.07193, section 7.4) without dropout; DINOv3
(arXiv:2508.10104, appendix D.1) with dropout 0.1 as released.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dinokit.core.bounds import at_least, between
from dinokit.core.errors import UserError
from dinokit.core.seed import torch_generator
from dinokit.models.features import Features


@dataclass(frozen=True, kw_only=True)
class Config:
    """Sizes of a linear dense head."""

    width: int = at_least(1)  # numbers per patch, of all layers together
    outputs: int = at_least(1)  # values per patch: classes, or bins of depth
    dropout: float = between(0, 1, 0.1, without=1)  # probability that an image lacks a channel in training
    batch_norm: bool = True  # normalise each channel first


class LinearHead(nn.Module):
    """Features of some layers -> values of every patch."""

    def __init__(self, config: Config, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.dropout = nn.Dropout2d(config.dropout)
        self.norm = nn.BatchNorm2d(config.width) if config.batch_norm else nn.Identity()
        self.classify = nn.Conv2d(config.width, config.outputs, kernel_size=1)
        nn.init.normal_(self.classify.weight, std=0.01, generator=torch_generator(seed))
        assert self.classify.bias is not None
        nn.init.zeros_(self.classify.bias)

    def forward(self, features: Sequence[Features]) -> Float[Tensor, "batch value rows columns"]:
        """Classify every patch.

        Raises:
            UserError: if the features are of another width than the head.
        """
        maps = joined([layer.maps for layer in features], width=self.config.width)
        values: Tensor = self.classify(self.norm(self.dropout(maps)))
        return values


def joined(
    maps: Sequence[Float[Tensor, "batch _ rows columns"]], *, width: int
) -> Float[Tensor, "batch width rows columns"]:
    """Put maps behind each other, in float32.

    Raises:
        UserError: if they are together not as wide as the head.
    """
    found = torch.cat([*maps], dim=1).float()
    if found.shape[1] != width:
        raise UserError(
            f"the head takes {width} numbers per patch, got {found.shape[1]}; it belongs to another model or to other "
            "layers"
        )
    return found
