"""Segmentation, patch by patch: its heads, the crops and the loss they learn from, and how classes are drawn.

Linear head: [dropout of whole channels ->] batch norm -> 1 x 1 convolution, its weights N(0, 0.01), its bias 0, on the
patches of one or several layers, one behind the other. Source: DINOv2 (arXiv:2304.07193, section 7.4) without dropout;
DINOv3 (arXiv:2508.10104, appendix D.1) with dropout 0.1 as released.

Vote, not trained: every patch takes the classes of its most similar training patches, weighted by
softmax(cosine / temperature) over the k nearest, as in the k-NN classification of DINO (arXiv:2104.14294).

Training crops: the short side is resized to size x U(scale), a square of `size` is cut out - drawn again up to ten
times while one class fills more than `cap` of it -, what is missing is filled up (the mean colour; class 255), half of
the crops are mirrored, and colours are distorted: brightness by up to 32 of 255, contrast and saturation by
U(0.5, 1.5), hue by up to `hue` of the colour circle, each with probability 0.5, contrast before or after saturation and
hue. Source: as of the heads. Saturation here mixes with the luminance, where those scale it in HSV.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from jaxtyping import Bool, Float, Int64, Shaped, UInt8
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from dinokit.annotations.masks import IGNORED
from dinokit.core.numbers import at_least, between
from dinokit.core.seed import derived, generator
from dinokit.dense import draw
from dinokit.dense.maps import best_class, joined
from dinokit.images import intensity
from dinokit.models.features import Features
from dinokit.views import augment

FOLDERS = ("masks", "overlays")
DETAILS = ("classes", "colours")  # of a head: a name and [red, green, blue] of each
_TRIES = 10
_AT_ONCE = 1 << 24  # similarities held at a time: 64 MiB


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
        nn.init.normal_(self.classify.weight, std=0.01, generator=torch.Generator().manual_seed(derived(seed)))
        assert self.classify.bias is not None
        nn.init.zeros_(self.classify.bias)

    def forward(self, features: Sequence[Features]) -> Float[Tensor, "batch value rows columns"]:
        """Classify every patch, which must have the width of the head."""
        maps = joined([layer.maps for layer in features], width=self.config.width)
        values: Tensor = self.classify(self.norm(self.dropout(maps)))
        return values


HEADS = {"linear": (Config, LinearHead)}


class PatchVote(nn.Module):
    """Features of some layers -> the share of each class among the neighbours of every patch."""

    def __init__(
        self,
        bank: Float[Tensor, "known width"],
        labels: Int64[Tensor, " known"],
        *,
        classes: int,
        k: int,
        temperature: float,
    ) -> None:
        super().__init__()
        self.bank, self.labels = F.normalize(bank, dim=1), labels
        self.classes, self.k, self.temperature = classes, min(k, len(bank)), temperature

    def forward(self, features: Sequence[Features]) -> Float[Tensor, "batch class rows columns"]:
        """Let the neighbours of every patch vote."""
        maps = torch.cat([layer.maps for layer in features], dim=1).float()  # [batch, width, rows, columns]
        batch, _, rows, columns = maps.shape
        asks = F.normalize(maps.flatten(2).transpose(1, 2).flatten(0, 1), dim=1)  # [batch * patch, width]
        step = max(1, _AT_ONCE // len(self.bank))
        votes = torch.cat([self._votes(asks[start : start + step]) for start in range(0, len(asks), step)])
        return votes.view(batch, rows, columns, self.classes).permute(0, 3, 1, 2)

    def _votes(self, asks: Float[Tensor, "patch width"]) -> Float[Tensor, "patch class"]:
        near = (asks @ self.bank.T).topk(self.k)
        weights = torch.softmax(near.values / self.temperature, dim=1)  # [patch, neighbour]
        return weights.new_zeros(len(asks), self.classes).scatter_add_(1, self.labels[near.indices], weights)


def cell_labels(
    cells: Float[Tensor, "rows columns pixel"],
) -> tuple[Int64[Tensor, "rows columns"], Bool[Tensor, "rows columns"]]:
    """Return the most frequent label of every patch, and whether it counts: it does not where that is 255."""
    labels = cells.mode(dim=2).values.long()
    return labels, labels != IGNORED


def cross_entropy(
    logits: Float[Tensor, "batch class height width"], targets: Shaped[Tensor, "batch height width"]
) -> Float[Tensor, ""]:
    """Return the cross-entropy; pixels of target 255 add 0 but stay in the mean, as released with DINOv3."""
    return nn.functional.cross_entropy(logits, targets.long(), ignore_index=255, reduction="sum") / targets.numel()


@dataclass(frozen=True)
class Crops:
    """How training crops are drawn."""

    size: int  # pixels, the side of a crop
    scale: tuple[float, float]  # of the short side, relative to the crop
    cap: float | None = None  # largest share of one class among the pixels that count; null: no limit
    hue: float = 0.5  # fraction of the colour circle


def crop_pair(
    image: intensity.Image, mask: UInt8[numpy.ndarray, "height width"], crops: Crops, *, key: tuple[int, ...]
) -> tuple[Float[Tensor, "channel size size"], Int64[Tensor, "size size"]]:
    """Draw one crop, a pure function of the key; values as before normalisation, 1.0 white, missing pixels NaN."""
    draws = generator(*key)
    low, high = crops.scale
    factor = crops.size * draws.uniform(low, high) / min(mask.shape)
    size = tuple(max(1, round(side * factor)) for side in mask.shape)
    range_ = intensity.value_range(image)
    pixels = F.interpolate(intensity.to_unit(image[None]), size=size, mode="bilinear", antialias=True).clamp_(*range_)
    labels = F.interpolate(torch.from_numpy(mask)[None, None].float(), size=size, mode="nearest-exact")[0, 0].long()
    for _ in range(_TRIES):
        top, left = (int(draws.integers(max(side - crops.size, 0) + 1)) for side in size)
        place = (slice(top, top + crops.size), slice(left, left + crops.size))
        if crops.cap is None or _largest_share(labels[place]) <= crops.cap:
            break
    pixels, labels = pixels[(..., *place)], labels[place]
    if range_ == (0.0, 1.0):  # beyond it, nothing says what is white
        pixels = _distorted(pixels, draws, hue=crops.hue)
    missing = (0, crops.size - labels.shape[1], 0, crops.size - labels.shape[0])
    pixels, labels = F.pad(pixels[0], missing, value=torch.nan), F.pad(labels, missing, value=IGNORED)
    if draws.random() < 0.5:
        pixels, labels = pixels.flip(-1), labels.flip(-1)
    return pixels, labels


def _largest_share(labels: Int64[Tensor, "height width"]) -> float:
    counts = torch.bincount(labels[labels != IGNORED])
    return float(counts.max() / counts.sum()) if len(counts) else 0.0


def _distorted(
    pixels: Float[Tensor, "1 channel height width"], draws: numpy.random.Generator, *, hue: float
) -> Float[Tensor, "1 channel height width"]:
    """Distort colours of values in [0, 1]."""
    chosen, strength = draws.random(5) < 0.5, draws.uniform(-1, 1, 4)
    if chosen[0]:
        pixels = (pixels + 32 / 255 * float(strength[0])).clamp_(0, 1)
    contrast = 1 + 0.5 * float(strength[1]) if chosen[1] else 1.0
    if chosen[4]:
        pixels = (pixels * contrast).clamp_(0, 1)
    if pixels.shape[1] == 3 and chosen[2]:
        pixels = augment.saturation(pixels, torch.tensor([1 + 0.5 * float(strength[2])]))
    if pixels.shape[1] == 3 and chosen[3]:
        pixels = augment.hue(pixels, torch.tensor([hue * float(strength[3])]))
    return pixels if chosen[4] else (pixels * contrast).clamp_(0, 1)


def pictures(
    values: Float[Tensor, "1 class rows columns"], image: intensity.Image, details: Mapping[str, Any]
) -> dict[str, Image.Image]:
    """Draw the class of every pixel, as indices of a palette, and its colour laid half over the image."""
    found = best_class(values, (image.shape[1], image.shape[2])).cpu().numpy().astype(numpy.uint8)
    colours = numpy.array(details["colours"], dtype=numpy.uint8)
    mask = Image.fromarray(found)
    mask.putpalette(colours.flatten().tolist())
    overlay = draw.mixed(draw.rgb(image), colours[found], numpy.full(found.shape, 0.5))
    return {"masks": mask, "overlays": Image.fromarray(overlay)}


def legend(details: Mapping[str, Any]) -> Image.Image:
    """Draw the colour and the name of every class."""
    return draw.legend(details["classes"], details["colours"])
