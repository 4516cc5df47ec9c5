"""The ResNet-50 of DINO (arXiv:2104.14294): torchvision's, without its classifier.

    stage 0:      conv 7x7 stride 2, norm, ReLU, max-pool 3x3 stride 2, bottlenecks
    stage 1 to 3: bottlenecks, the first of stride 2
    bottleneck:   x + 1x1, 3x3, 1x1 with batch norm after each and ReLU between (arXiv:1512.03385, figure 5)

The stride sits on the 3x3 convolution, not on the first 1x1 as in the paper. There is no final norm: CLS is the mean of
the last map, after its ReLU. Any height and width: windows are padded, so the grid is (height / 32, width / 32) rounded
up, and the last row and column may see less than a whole patch.

Parameter names are torchvision's, which are also those of the official file.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dinokit.core import dist
from dinokit.core.bounds import at_least
from dinokit.core.errors import UserError
from dinokit.models.convnet import STAGES, ConvNet
from dinokit.models.init import ConvStyle

EXPANSION = 4  # a bottleneck's output is so many times wider than its inside


@dataclass(frozen=True, kw_only=True)
class Config:
    """Architecture of a ResNet of bottlenecks; the defaults are ResNet-50."""

    kind: Literal["resnet"] = "resnet"  # of network: vit, convnext, resnet; or the name of an architecture
    patch_size: ClassVar[int] = ConvNet.patch_size
    init: ClassVar[ConvStyle] = "resnet"
    whole_patches: ClassVar[bool] = False  # windows overlap: a crop may be of any size from a patch on
    mask_token: ClassVar[bool] = False  # nothing can stand for a hidden patch
    batch_norm: ClassVar[bool] = True  # features of an image depend on the others in training
    channels: int = at_least(1, 3)  # of the images
    width: int = at_least(1, 64)  # of the first convolution; doubles with every stage
    depths: tuple[int, ...] = at_least(1, (3, 4, 6, 3))  # bottlenecks of each of the four stages

    def __post_init__(self) -> None:
        if len(self.depths) != STAGES:
            raise UserError(f"resnet depths must be {STAGES} numbers, got {list(self.depths)}")

    @property
    def dim(self) -> int:
        """Width of CLS and patches."""
        return EXPANSION * 8 * self.width  # it doubled three times

    @property
    def depth(self) -> int:
        """Bottlenecks in all."""
        return sum(self.depths)


class ResNet(ConvNet):
    """Images of any size -> Features. In training, batch norm sees the batch it is given."""

    smallest = 1

    config: Config

    def build(self, config: Config) -> None:
        """Make the parts of the network."""
        self.conv1 = nn.Conv2d(config.channels, config.width, 7, stride=2, padding=3, bias=False)
        self.bn1 = BatchNorm(config.width)
        stages, dim = [], config.width
        for index, depth in enumerate(config.depths):
            width, first = config.width * 2**index, 1 if index == 0 else 2  # stride of the first bottleneck
            out = EXPANSION * width
            rest = (Bottleneck(out, width, stride=1) for _ in range(depth - 1))
            stages.append(nn.Sequential(Bottleneck(dim, width, stride=first), *rest))
            dim = out
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.norm = nn.Identity()

    def residuals(self) -> list[nn.Module]:
        """List the bottlenecks of all stages, see `Built`."""
        return [block for stage in (self.layer1, self.layer2, self.layer3, self.layer4) for block in stage]

    def depth_of(self, name: str) -> int:
        """Say where a parameter stands, see `Built`; bottlenecks are counted through the stages."""
        place = re.match(r"layer(\d+)\.(\d+)\.", name)
        return 0 if place is None else 1 + sum(self.config.depths[: int(place[1]) - 1]) + int(place[2])

    def stages_of(
        self, images: Float[Tensor, "batch channel height width"]
    ) -> Iterator[Float[Tensor, "batch width rows columns"]]:
        """Yield the map after each stage."""
        maps = F.relu(self.bn1(self.conv1(images)))  # [batch, width, height / 2, width / 2]
        maps = F.max_pool2d(maps, 3, stride=2, padding=1)  # [batch, width, height / 4, width / 4]
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            maps = stage(maps)  # [batch, width, rows, columns]
            yield maps


class BatchNorm(nn.BatchNorm2d):
    """Batch norm that in training sees the images of all ranks, as DINO trained its ResNet-50.

    Two ranks then take the steps of one: the statistics are those of the whole micro-batch, and gradients reach the
    images of all ranks through them. Ranks bring equally many images.
    """

    def forward(self, input: Float[Tensor, "batch dim rows columns"]) -> Float[Tensor, "batch dim rows columns"]:
        """Normalise, and move the running statistics in training."""
        if not self.training or dist.world_size() == 1:
            out: Tensor = super().forward(input)
            return out
        maps = input.float()
        variance, mean = torch.var_mean(maps, dim=(0, 2, 3), correction=0)  # [dim], of this rank
        of_ranks = dist.all_gather(torch.stack([mean, variance])[None])  # [rank, 2, dim]
        mean = of_ranks[:, 0].mean(0)
        variance = of_ranks[:, 1].mean(0) + of_ranks[:, 0].var(0, correction=0)  # within ranks, and between them
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        samples = dist.world_size() * maps.numel() // maps.shape[1]
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * samples / max(samples - 1, 1), self.momentum)
            self.num_batches_tracked += 1
        scale = self.weight * (variance + self.eps).rsqrt()
        return (maps - mean[:, None, None]) * scale[:, None, None] + self.bias[:, None, None]


class Bottleneck(nn.Module):
    """Narrow, convolve, widen; added to the input, which is projected where the shape changes."""

    def __init__(self, dim: int, width: int, *, stride: int) -> None:
        super().__init__()
        out = EXPANSION * width
        self.conv1 = nn.Conv2d(dim, width, 1, bias=False)
        self.bn1 = BatchNorm(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = BatchNorm(width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = BatchNorm(out)
        same = dim == out and stride == 1
        projection = [] if same else [nn.Conv2d(dim, out, 1, stride=stride, bias=False), BatchNorm(out)]
        self.downsample = nn.Sequential(*projection)

    def forward(self, maps: Float[Tensor, "batch dim height width"]) -> Float[Tensor, "batch out rows columns"]:
        """Apply the bottleneck."""
        inner = F.relu(self.bn1(self.conv1(maps)))  # [batch, width, height, width]
        inner = F.relu(self.bn2(self.conv2(inner)))  # [batch, width, rows, columns]
        return F.relu(self.bn3(self.conv3(inner)) + self.downsample(maps))  # [batch, out, rows, columns]
