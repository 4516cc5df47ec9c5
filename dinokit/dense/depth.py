"""Depth from patches: its heads, and how depths are drawn; `depth_lesson` is what they learn from.

Heads: every patch's depth by one linear map of its features, or by a DPT on four layers; both through bins.

    DINOv3   patches of the last layer -> batch norm -> 1 x 1 convolution -> bins
    DINOv2   patches and the CLS of one or four layers, enlarged four times -> 1 x 1 convolution -> bins

    bins     b_k = 256, evenly spaced from low to high     p_k = w_k / sum_j w_j     w = max(z, 0) + 0.1
             depth = sum_k p_k b_k

    DPT      level l   [patch, CLS] -> linear, GELU
                       1 x 1 conv to the level's width -> enlarged 4 or 2 times, kept, halved -> 3 x 3 conv to `fused`
             fuse      x <- unit(x + unit(lateral)), twice as large, 1 x 1 conv; unit(x) = x + conv(relu(conv(relu(x))))
             output    3 x 3, 3 x 3 to half, twice as large, 3 x 3 to 32, relu, 1 x 1 -> bins

Sources: DINOv2 (arXiv:2304.07193, section 7.4), DINOv3 (arXiv:2508.10104, appendix D.2); bins: AdaBins
(arXiv:2011.14141, section 3.3), here fixed; DPT: Ranftl et al. 2021 (arXiv:2103.13413, section 3).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw
from torch import Tensor, nn
from torch.nn import functional as F

from dinokit.core.messages import UserError
from dinokit.core.numbers import above, at_least
from dinokit.core.seed import derived
from dinokit.dense import draw
from dinokit.dense.maps import joined, resized
from dinokit.images import intensity
from dinokit.models.features import Features, is_recorded

FOLDERS = ("depth", "colours")
DETAILS = ("low", "high")  # of a head, in metres
# settings that earlier versions wrote into head.json, and the value that all heads had
RETIRED = {"bins.count": 256, "bins.spacing": "uniform", "bins.link": "linear", "levels": None, "readout": "project"}
LEVELS = 4  # of a DPT
BINS = 256
_FLOOR = 0.1  # no bin is ever without a share
_MOST = 65_535
_WIDTH, _HEIGHT = 320, 48  # pixels of the legend
_MARKS = 5
_SPAN = 50  # from the farthest to where colours begin: ranges often begin at a millimetre, where nothing is


@dataclass(frozen=True, kw_only=True)
class Bins:
    """The range of depths that is divided."""

    low: float = above(0, 1e-3)  # metres; nothing is nearer
    high: float = above(0, 10.0)  # metres; nothing is further

    def __post_init__(self) -> None:
        if self.low >= self.high:
            raise UserError(f"a range of depths needs low < high, got {self.low} and {self.high}")


def decode(values: Float[Tensor, "batch bin rows columns"], bins: Bins) -> Float[Tensor, "batch 1 rows columns"]:
    """Return depth in metres."""
    weights = values.relu() + _FLOOR
    centres = torch.linspace(bins.low, bins.high, values.shape[1])
    shares = weights / weights.sum(dim=1, keepdim=True)
    return torch.einsum("bkrc,k->brc", shares, centres.to(values))[:, None]


@dataclass(frozen=True, kw_only=True)
class LinearConfig:
    """Sizes of a linear depth head."""

    width: int = at_least(1)  # numbers per patch, of all layers together, without CLS
    cls: bool = False  # put the CLS of each layer behind its patches
    cls_width: int = at_least(0, 0)  # numbers of the CLS of all layers together
    enlarge: int = at_least(1, 1)  # times, before the map
    batch_norm: bool = True  # normalise each channel first
    bins: Bins = field(default_factory=Bins)

    def __post_init__(self) -> None:
        if self.cls and not self.cls_width:
            raise UserError("a depth head that reads the CLS needs its cls_width")

    @property
    def inputs(self) -> int:
        """Numbers per patch that are mapped."""
        return self.width + (self.cls_width if self.cls else 0)


class LinearDepth(nn.Module):
    """Features of some layers -> metres."""

    def __init__(self, config: LinearConfig, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.norm = nn.BatchNorm2d(config.inputs) if config.batch_norm else nn.Identity()
        self.regress = nn.Conv2d(config.inputs, BINS, kernel_size=1)
        nn.init.normal_(self.regress.weight, std=0.01, generator=torch.Generator().manual_seed(derived(seed)))
        assert self.regress.bias is not None
        nn.init.zeros_(self.regress.bias)

    def forward(self, features: Sequence[Features]) -> Float[Tensor, "batch 1 rows columns"]:
        """Return the depth of every patch, or of every cell of the enlarged map."""
        maps = []
        for layer in features:
            maps.append(layer.maps)
            if self.config.cls:
                maps.append(layer.cls[..., None, None].expand(-1, -1, *layer.grid))
        seen = joined(maps, width=self.config.inputs)
        if self.config.enlarge > 1:
            seen = F.interpolate(seen, scale_factor=self.config.enlarge, mode="bilinear", align_corners=False)
        return decode(self.regress(self.norm(seen)), self.config.bins)


@dataclass(frozen=True, kw_only=True)
class DPTConfig:
    """Sizes of a DPT head."""

    widths: tuple[int, ...] = at_least(1)  # numbers per patch of each of the four layers
    fused: int = at_least(2, 256)  # width while it is fused
    cls_widths: tuple[int, ...] = ()  # of the CLS of each layer; empty: as the patches
    bins: Bins = field(default_factory=Bins)

    def __post_init__(self) -> None:
        if len(self.widths) != LEVELS:
            raise UserError(f"a DPT head takes {LEVELS} layers, got widths {self.widths}")

    @property
    def pyramid(self) -> tuple[int, ...]:
        """Widths of the four levels: 1/8, 1/4, 1/2, 1 of the last layer's."""
        return tuple(max(1, self.widths[-1] // part) for part in (8, 4, 2, 1))


class Unit(nn.Module):
    """A residual unit: relu, 3 x 3, relu, 3 x 3."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, maps: Float[Tensor, "batch width rows columns"]) -> Float[Tensor, "batch width rows columns"]:
        """Add what two convolutions see."""
        added: Tensor = maps + self.second(F.relu(self.first(F.relu(maps))))
        return added


class Fusion(nn.Module):
    """Joins a coarser map with a lateral one and doubles its size."""

    def __init__(self, width: int, *, deepest: bool) -> None:
        super().__init__()
        self.lateral = None if deepest else Unit(width)
        self.joined = Unit(width)
        self.project = nn.Conv2d(width, width, 1)

    def forward(
        self, lateral: Float[Tensor, "batch width rows columns"], coarser: Tensor | None
    ) -> Float[Tensor, "batch width rows2 columns2"]:
        """Fuse; `coarser` may be a pixel too large where a side was odd."""
        joined = lateral
        if coarser is not None and self.lateral is not None:
            # what is recorded for other sizes must not remember the answer; of equal sizes nothing changes
            if is_recorded() or coarser.shape[2:] != lateral.shape[2:]:
                coarser = F.interpolate(coarser, size=lateral.shape[2:], mode="bilinear", align_corners=True)
            joined = self.lateral(lateral) + coarser
        larger = F.interpolate(self.joined(joined), scale_factor=2, mode="bilinear", align_corners=True)
        projected: Tensor = self.project(larger)
        return projected


class DPT(nn.Module):
    """Features of four layers -> metres, at eight cells per patch."""

    def __init__(self, config: DPTConfig, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        with torch.random.fork_rng([]):
            torch.manual_seed(derived(seed))
            cls = config.cls_widths or config.widths
            self.readouts = nn.ModuleList(
                nn.Sequential(nn.Linear(width + extra, width), nn.GELU())
                for width, extra in zip(config.widths, cls, strict=True)
            )
            self.narrow = nn.ModuleList(nn.Conv2d(w, level, 1) for w, level in zip(config.widths, config.pyramid))
            a, b, _, d = config.pyramid
            self.resize = nn.ModuleList(
                [
                    nn.ConvTranspose2d(a, a, 4, stride=4),
                    nn.ConvTranspose2d(b, b, 2, stride=2),
                    nn.Identity(),
                    nn.Conv2d(d, d, 3, stride=2, padding=1),
                ]
            )
            self.lateral = nn.ModuleList(
                nn.Conv2d(level, config.fused, 3, padding=1, bias=False) for level in config.pyramid
            )
            self.fuse = nn.ModuleList(Fusion(config.fused, deepest=not place) for place in range(LEVELS))
            self.project = nn.Conv2d(config.fused, config.fused, 3, padding=1)
            self.halve = nn.Conv2d(config.fused, config.fused // 2, 3, padding=1)
            self.last = nn.Sequential(nn.Conv2d(config.fused // 2, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, BINS, 1))

    def forward(self, features: Sequence[Features]) -> Float[Tensor, "batch 1 rows columns"]:
        """Return depth of features of four layers, which must have the widths of the head."""
        found = tuple(layer.patches.shape[-1] for layer in features)
        if found != self.config.widths:
            raise UserError(f"the head takes layers of {self.config.widths} numbers per patch, got {found}")
        pyramid = [self._level(index, layer) for index, layer in enumerate(features)]
        joined: Tensor | None = None
        for lateral, fuse in zip(reversed(pyramid), self.fuse, strict=True):
            joined = fuse(lateral, joined)
        assert joined is not None
        larger = F.interpolate(self.halve(self.project(joined)), scale_factor=2, mode="bilinear", align_corners=True)
        return decode(self.last(larger), self.config.bins)

    def _level(self, index: int, layer: Features) -> Float[Tensor, "batch fused rows columns"]:
        patches = layer.patches.float()
        cls = layer.cls.float()[:, None].expand(-1, patches.shape[1], -1)
        patches = self.readouts[index](torch.cat([patches, cls], dim=-1))
        maps = torch.unflatten(patches.transpose(1, 2), -1, layer.grid)  # [batch, width, rows, columns]
        level: Tensor = self.lateral[index](self.resize[index](self.narrow[index](maps)))
        return level


HEADS = {"linear-depth": (LinearConfig, LinearDepth), "dpt": (DPTConfig, DPT)}


def units(high: float) -> float:
    """Return the steps of a metre in the PNG: the finest that fits of millimetres, 1/256 m as KITTI, and coarser."""
    return next((steps for steps in (1000.0, 256.0, 100.0, 10.0, 1.0) if high * steps <= _MOST), _MOST / high)


def pictures(
    values: Float[Tensor, "1 1 rows columns"], image: intensity.Image, details: Mapping[str, Any]
) -> dict[str, Image.Image]:
    """Draw the depth of every pixel in 16 bits, and in colours, on a log scale."""
    low, high = details["low"], details["high"]
    metres = resized(values, (image.shape[1], image.shape[2]))[0, 0].clamp(low, high).cpu().numpy()
    steps = (metres * units(high)).round().clip(1, _MOST).astype(numpy.uint16)  # 0 would say: not known
    shown = coloured(metres, low=max(low, high / _SPAN), high=high)
    return {"depth": Image.fromarray(steps), "colours": Image.fromarray(shown)}


def legend(details: Mapping[str, Any]) -> Image.Image:
    """Draw which colour is which distance, and what a step of the PNG is."""
    low, high = details["low"], details["high"]
    near = max(low, high / _SPAN)
    scale = numpy.geomspace(near, high, _WIDTH)[None].repeat(16, axis=0)
    page = Image.new("RGB", (_WIDTH + 40, _HEIGHT), "white")
    page.paste(Image.fromarray(coloured(scale, low=near, high=high)), (20, 2))
    pen = ImageDraw.Draw(page)
    for mark in range(_MARKS):
        share = mark / (_MARKS - 1)
        pen.text((20 + share * _WIDTH, 20), f"{near * (high / near) ** share:.3g} m", fill="black", anchor="ma")
    pen.text((20 + _WIDTH / 2, 33), f"depth/: 1 m = {units(high):g}, 16 bits", fill="black", anchor="ma")
    return page


def coloured(
    metres: Float[numpy.ndarray, "rows columns"], *, low: float, high: float
) -> UInt8[numpy.ndarray, "rows columns 3"]:
    """Return colours of distances, by their logarithm."""
    share = (numpy.log(metres.clip(low, high)) - numpy.log(low)) / (numpy.log(high) - numpy.log(low))
    return draw.heat(1 - share)  # near is bright
