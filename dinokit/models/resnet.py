"""The ResNet-50 of DINO (arXiv:2104.14294): torchvision's, without its classifier.

    stage 0:      conv 7x7 stride 2, norm, ReLU, max-pool 3x3 stride 2, bottlenecks
    stage 1 to 3: bottlenecks, the first of stride 2
    bottleneck:   x + 1x1, 3x3, 1x1 with batch norm after each and ReLU between (arXiv:1512.03385, figure 5)

The stride sits on the 3x3 convolution, not on the first 1x1 as in the paper. There is no final norm: CLS is the mean of
the last map, after its ReLU. Any height and width: windows are padded, so the grid is (height / 32, width / 32) rounded
up, and the last row and column may see less than a whole patch.

Parameter names are torchvision's, which are also those of the official file.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dinokit.core.bounds import at_least
from dinokit.core.errors import UserError
from dinokit.images.normalisation import default_pixels
from dinokit.models import init
from dinokit.models.convnet import STAGES, ConvNet

EXPANSION = 4  # a bottleneck's output is so many times wider than its inside


@dataclass(frozen=True, kw_only=True)
class Config:
    """Architecture of a ResNet of bottlenecks; the defaults are ResNet-50."""

    patch_size: ClassVar[int] = ConvNet.patch_size
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

    def __init__(self, config: Config, *, seed: int = 0) -> None:
        """Build on torch's default device with initial values from the seed; see `vit.VisionTransformer`."""
        super().__init__()
        self.config = config
        self.dim = config.dim
        self.channels = config.channels
        self.pixels = default_pixels(config.channels)
        device = torch.get_default_device()
        with torch.device("meta"):
            self._build(config)
        init.materialise(self, "resnet", seed=seed, device=device)

    def fresh(self, seed: int) -> "ResNet":
        """Build the same architecture with initial values from the seed."""
        return ResNet(self.config, seed=seed)

    def initialise(self, seed: int) -> None:
        """Set all parameters and buffers in place."""
        init.initialise(self, "resnet", seed=seed)

    def stages_of(
        self, images: Float[Tensor, "batch channel height width"]
    ) -> Iterator[Float[Tensor, "batch width rows columns"]]:
        """Yield the map after each stage."""
        maps = F.relu(self.bn1(self.conv1(images)))  # [batch, width, height / 2, width / 2]
        maps = F.max_pool2d(maps, 3, stride=2, padding=1)  # [batch, width, height / 4, width / 4]
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            maps = stage(maps)  # [batch, width, rows, columns]
            yield maps

    def _build(self, config: Config) -> None:
        self.conv1 = nn.Conv2d(config.channels, config.width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(config.width)
        widths = [config.width * 2**stage for stage in range(STAGES)]
        inputs = [config.width, *(EXPANSION * width for width in widths)]
        stages = [
            _stage(dim, width, depth, stride=1 if index == 0 else 2)
            for index, (dim, width, depth) in enumerate(zip(inputs, widths, config.depths))
        ]
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.norm = nn.Identity()


class Bottleneck(nn.Module):
    """Narrow, convolve, widen; added to the input, which is projected where the shape changes."""

    def __init__(self, dim: int, width: int, *, stride: int) -> None:
        super().__init__()
        out = EXPANSION * width
        self.conv1 = nn.Conv2d(dim, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        same = dim == out and stride == 1
        projection = [] if same else [nn.Conv2d(dim, out, 1, stride=stride, bias=False), nn.BatchNorm2d(out)]
        self.downsample = nn.Sequential(*projection)

    def forward(self, maps: Float[Tensor, "batch dim height width"]) -> Float[Tensor, "batch out rows columns"]:
        """Apply the bottleneck."""
        inner = F.relu(self.bn1(self.conv1(maps)))  # [batch, width, height, width]
        inner = F.relu(self.bn2(self.conv2(inner)))  # [batch, width, rows, columns]
        return F.relu(self.bn3(self.conv3(inner)) + self.downsample(maps))  # [batch, out, rows, columns]


def _stage(dim: int, width: int, depth: int, *, stride: int) -> nn.Sequential:
    rest = (Bottleneck(EXPANSION * width, width, stride=1) for _ in range(depth - 1))
    return nn.Sequential(Bottleneck(dim, width, stride=stride), *rest)
