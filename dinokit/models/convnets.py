"""The convolutional backbones: ConvNeXt and DINO's ResNet-50, four stages of shrinking maps without tokens.

The stages have strides 4, 8, 16 and 32. CLS is the mean of the last map and its cells are the patches, as DINO reads
its ResNet-50 (arXiv:2104.14294, section 3.1) and DINOv3 its ConvNeXts (arXiv:2508.10104, section 5). There are no
registers, and nothing in these networks can stand for a hidden patch.

ConvNeXt (arXiv:2201.03545), as DINOv3 distils it into sizes T, S, B, L:

    stage 0:      conv 4x4 stride 4, norm                           blocks: x + gamma * pwconv2(GELU(pwconv1(norm(
    stage 1 to 3: norm, conv 2x2 stride 2                                   dwconv(x)))))
    output:       norm([mean of the map, its cells])

Any height and width of at least 32: the grid is (height // 32, width // 32). Every convolution drops what does not
fill its window, but pixels beyond the last whole patch still reach it through the 7x7 convolutions of earlier stages.
Parameter names are the official ones. Maps are kept [batch, rows, columns, dim], where norms and linear layers need no
transposing.

ResNet: torchvision's, without its classifier:

    stage 0:      conv 7x7 stride 2, norm, ReLU, max-pool 3x3 stride 2, bottlenecks
    stage 1 to 3: bottlenecks, the first of stride 2
    bottleneck:   x + 1x1, 3x3, 1x1 with batch norm after each and ReLU between (arXiv:1512.03385, figure 5)

The stride sits on the 3x3 convolution, not on the first 1x1 as in the paper. There is no final norm: CLS is the mean of
the last map, after its ReLU. Any height and width: windows are padded, so the grid is (height / 32, width / 32) rounded
up, and the last row and column may see less than a whole patch. Parameter names are torchvision's, which are also those
of the official file.
"""

import re
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dinokit.core import dist
from dinokit.core.messages import UserError
from dinokit.core.numbers import at_least
from dinokit.models.features import Built, Features, Residual, accepted, chosen_layers

STAGES = 4
EXPANSION = 4  # a bottleneck's output is so many times wider than its inside


class ConvNet(Built):
    """Images -> Features. A subclass says how its stages follow each other."""

    patch_size = 32  # stride of the last stage
    smallest: int  # side in pixels of the smallest image
    norm: nn.Module  # of CLS and patches of the last stage

    @abstractmethod
    def stages_of(
        self, images: Float[Tensor, "batch channel height width"]
    ) -> Iterator[Float[Tensor, "batch width rows columns"]]:
        """Yield the map after each stage; a stage runs only when it is asked for."""

    def forward(
        self,
        images: Float[Tensor, "batch channel height width"],
        *,
        masks: Bool[Tensor, "batch patch"] | None = None,
        local: bool = False,  # noqa: ARG002 (part of the contract; there is one norm for all crops)
    ) -> Features:
        """Embed images; a UserError if they do not fit, or if masks are given."""
        if masks is not None:
            raise UserError(f"a {type(self).__name__} has no mask token; use a vision transformer, or no masks")
        return self.intermediate(images, 1)[0]

    def intermediate(
        self, images: Float[Tensor, "batch channel height width"], layers: int | Sequence[int], *, norm: bool = True
    ) -> tuple[Features, ...]:
        """Return features after the last `layers` stages, or after those of the given indices, in the order given.

        Width and grid are those of the stage; the final norm belongs to the last stage and is applied to no other.
        """
        wanted = chosen_layers(layers, count=STAGES, unit="stages")
        dtype = next(self.parameters()).dtype
        images = accepted(images, channels=self.channels, side=self.smallest, dtype=dtype)
        found = {}
        for index, maps in enumerate(islice(self.stages_of(images), max(wanted) + 1)):
            if index in wanted:
                found[index] = Features.from_maps(maps)
        last = found.get(STAGES - 1)
        if norm and last is not None:
            found[STAGES - 1] = Features(self.norm(last.cls), last.registers, self.norm(last.patches), last.grid)
        return tuple(found[index] for index in wanted)


@dataclass(frozen=True, kw_only=True)
class ConvNeXtConfig:
    """Architecture and initial values of a ConvNeXt; models/architecture.py holds the published ones."""

    kind: Literal["convnext"] = "convnext"  # of network: vit, convnext, resnet; or the name of an architecture
    patch_size: ClassVar[int] = ConvNet.patch_size
    init: ClassVar[Literal["convnext"]] = "convnext"  # initial values
    family: ClassVar[Literal["convnext"]] = "convnext"  # of networks with the same layouts
    whole_patches: ClassVar[bool] = False  # windows overlap: a crop may be of any size from a patch on
    mask_token: ClassVar[bool] = False  # nothing can stand for a hidden patch
    batch_norm: ClassVar[bool] = False  # features of an image are its own
    channels: int = at_least(1, 3)  # of the images
    dims: tuple[int, ...] = at_least(1, (96, 192, 384, 768))  # width of each of the four stages
    depths: tuple[int, ...] = at_least(1, (3, 3, 9, 3))  # blocks of each
    norm_eps: ClassVar[float] = 1e-6  # of every LayerNorm
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


_norm = partial(nn.LayerNorm, eps=ConvNeXtConfig.norm_eps)


class ConvNeXt(ConvNet):
    """Images of any size from 32 pixels on -> Features."""

    smallest = 32

    config: ConvNeXtConfig

    def build(self, config: ConvNeXtConfig) -> None:
        """Make the parts of the network."""
        shrinking = [nn.ModuleList([nn.Conv2d(config.channels, config.dims[0], 4, stride=4), _norm(config.dims[0])])]
        for before, after in zip(config.dims, config.dims[1:]):
            shrinking.append(nn.ModuleList([_norm(before), nn.Conv2d(before, after, 2, stride=2)]))
        self.downsample_layers = nn.ModuleList(shrinking)
        self.stages = nn.ModuleList(
            nn.Sequential(*(ConvNeXtBlock(dim, layer_scale=config.layer_scale) for _ in range(depth)))
            for dim, depth in zip(config.dims, config.depths)
        )
        self.norm = _norm(config.dim)

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


class ConvNeXtBlock(Residual):
    """A depthwise 7x7 convolution, then a GELU MLP on every cell, as one residual branch."""

    def __init__(self, dim: int, *, layer_scale: float) -> None:
        super().__init__()
        self.constants = {"gamma": partial(torch.full, (dim,), layer_scale, device="cpu")}
        self.dwconv = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = _norm(dim)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.pwconv2 = nn.Linear(4 * dim, dim)
        self.gamma = nn.Parameter(torch.empty(dim))

    def forward(self, maps: Float[Tensor, "batch rows columns dim"]) -> Float[Tensor, "batch rows columns dim"]:
        """Add the branch to the maps."""
        mixed = self.norm(_convolved(maps, self.dwconv))
        out: Tensor = maps + self.gamma * self.pwconv2(F.gelu(self.pwconv1(mixed)))
        return out


def _convolved(maps: Tensor, conv: nn.Conv2d) -> Tensor:
    out: Tensor = conv(maps.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # [batch, rows, columns, width]
    return out


@dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """Architecture of a ResNet of bottlenecks; the defaults are ResNet-50."""

    kind: Literal["resnet"] = "resnet"  # of network: vit, convnext, resnet; or the name of an architecture
    patch_size: ClassVar[int] = ConvNet.patch_size
    init: ClassVar[Literal["resnet"]] = "resnet"  # initial values
    family: ClassVar[Literal["resnet"]] = "resnet"  # of networks with the same layouts
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

    config: ResNetConfig

    def build(self, config: ResNetConfig) -> None:
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


class Bottleneck(Residual):
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
