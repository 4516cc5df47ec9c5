"""ConvNeXt (arXiv:2201.03545), as DINOv3 distils it into sizes T, S, B, L (arXiv:2508.10104, section 5).

    stage 0:      conv 4x4 stride 4, norm                           blocks: x + gamma * pwconv2(GELU(pwconv1(norm(
    stage 1 to 3: norm, conv 2x2 stride 2                                   dwconv(x)))))
    output:       norm([mean of the map, its cells])

Any height and width of at least 32: the grid is (height // 32, width // 32). Every convolution drops what does not
fill its window, but pixels beyond the last whole patch still reach it through the 7x7 convolutions of earlier stages.

Parameter names are the official ones. Maps are kept [batch, rows, columns, dim], where norms and linear layers need no
transposing.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dinokit.core.bounds import at_least
from dinokit.core.errors import UserError
from dinokit.models.convnet import STAGES, ConvNet
from dinokit.models.init import ConvStyle

EPS = 1e-6  # of every LayerNorm


@dataclass(frozen=True, kw_only=True)
class Config:
    """Architecture and initial values of a ConvNeXt; models/variants.py holds the published ones."""

    kind: Literal["convnext"] = "convnext"  # of network: vit, convnext, resnet; or the name of an architecture
    patch_size: ClassVar[int] = ConvNet.patch_size
    init: ClassVar[ConvStyle] = "convnext"
    whole_patches: ClassVar[bool] = False  # windows overlap: a crop may be of any size from a patch on
    mask_token: ClassVar[bool] = False  # nothing can stand for a hidden patch
    batch_norm: ClassVar[bool] = False  # features of an image are its own
    channels: int = at_least(1, 3)  # of the images
    dims: tuple[int, ...] = at_least(1, (96, 192, 384, 768))  # width of each of the four stages
    depths: tuple[int, ...] = at_least(1, (3, 3, 9, 3))  # blocks of each
    layer_scale: float = 1e-6  # initial factor of each residual channel

    def __post_init__(self) -> None:
        if (len(self.dims), len(self.depths)) != (STAGES, STAGES):
            raise UserError(f"convnext dims and depths must be {STAGES} numbers, got {self.dims} and {self.depths}")

    @property
    def dim(self) -> int:
        """Width of CLS and patches."""
        return self.dims[-1]

    @property
    def depth(self) -> int:
        """Blocks in all."""
        return sum(self.depths)


class ConvNeXt(ConvNet):
    """Images of any size from 32 pixels on -> Features."""

    smallest = 32

    config: Config

    def build(self, config: Config) -> None:
        """Make the parts of the network."""
        shrinking = [nn.ModuleList([nn.Conv2d(config.channels, config.dims[0], 4, stride=4), _norm(config.dims[0])])]
        for before, after in zip(config.dims, config.dims[1:]):
            shrinking.append(nn.ModuleList([_norm(before), nn.Conv2d(before, after, 2, stride=2)]))
        self.downsample_layers = nn.ModuleList(shrinking)
        self.stages = nn.ModuleList(
            nn.Sequential(*(Block(dim, layer_scale=config.layer_scale) for _ in range(depth)))
            for dim, depth in zip(config.dims, config.depths)
        )
        self.norm = _norm(config.dim)

    def residuals(self) -> list[nn.Module]:
        """List the blocks of all stages, see `Built`."""
        return [block for stage in self.stages for block in stage.children()]

    def depth_of(self, name: str) -> int:
        """Say where a parameter stands, see `Built`; what shrinks a map belongs to the first block after it.

        Blocks are counted through the stages (ConvNeXt, arXiv:2201.03545, appendix A.1, groups them by three instead).
        """
        place = re.match(r"(stages|downsample_layers)\.(\d+)\.(\d+)\.", name)
        if place is None:
            return self.config.depth + 1
        if place[1] == "downsample_layers" and place[2] == "0":
            return 0
        return 1 + sum(self.config.depths[: int(place[2])]) + (int(place[3]) if place[1] == "stages" else 0)

    def stages_of(
        self, images: Float[Tensor, "batch channel height width"]
    ) -> Iterator[Float[Tensor, "batch width rows columns"]]:
        """Yield the map after each stage."""
        maps = images.permute(0, 2, 3, 1)  # [batch, height, width, channel]
        for shrink, blocks in zip(self.downsample_layers, self.stages):
            assert isinstance(shrink, nn.ModuleList)
            for layer in shrink:
                maps = _convolved(maps, layer) if isinstance(layer, nn.Conv2d) else layer(maps)
            maps = blocks(maps)  # [batch, rows, columns, width]
            yield maps.permute(0, 3, 1, 2)  # [batch, width, rows, columns]


class Block(nn.Module):
    """A depthwise 7x7 convolution, then a GELU MLP on every cell, as one residual branch."""

    def __init__(self, dim: int, *, layer_scale: float) -> None:
        super().__init__()
        self.layer_scale = layer_scale
        self.dwconv = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = _norm(dim)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.pwconv2 = nn.Linear(4 * dim, dim)
        self.gamma = nn.Parameter(torch.empty(dim))

    def constants(self) -> dict[str, Tensor]:
        """Value of the residual factors, for the initialiser."""
        return {"gamma": torch.full((self.gamma.shape[0],), self.layer_scale, device="cpu")}

    def forward(self, maps: Float[Tensor, "batch rows columns dim"]) -> Float[Tensor, "batch rows columns dim"]:
        """Add the branch to the maps."""
        mixed = self.norm(_convolved(maps, self.dwconv))
        out: Tensor = maps + self.gamma * self.pwconv2(F.gelu(self.pwconv1(mixed)))
        return out


def _norm(dim: int) -> nn.LayerNorm:
    return nn.LayerNorm(dim, eps=EPS)


def _convolved(maps: Tensor, conv: nn.Conv2d) -> Tensor:
    out: Tensor = conv(maps.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # [batch, rows, columns, width]
    return out
