"""Training crops of segmentation: scale, crop, mirror and distort an image, and its mask in step.

The short side is resized to size x U(scale), a square of `size` is cut out - drawn again up to ten times while one
class fills more than `cap` of it -, what is missing is filled up (the mean colour; class 255), half of the crops are
mirrored, and colours are distorted: brightness by up to 32 of 255, contrast and saturation by U(0.5, 1.5), hue by up to
`hue` of the colour circle, each with probability 0.5, contrast before or after saturation and hue.
Source: the training of DINOv2's and DINOv3's linear segmentation (arXiv:2304.07193, section 7.4; arXiv:2508.10104,
appendix D.1). Saturation here mixes with the luminance, where those scale it in HSV.
"""

from dataclasses import dataclass

import numpy
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.nn import functional as F

from dinokit.annotations.masks import IGNORED
from dinokit.core.seed import generator
from dinokit.images import colour, intensity

_TRIES = 10


@dataclass(frozen=True)
class Crops:
    """How training crops are drawn."""

    size: int  # pixels, the side of a crop
    scale: tuple[float, float]  # of the short side, relative to the crop
    cap: float | None = None  # largest share of one class among the pixels that count; None: no limit
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
        pixels = colour.saturation(pixels, torch.tensor([1 + 0.5 * float(strength[2])]))
    if pixels.shape[1] == 3 and chosen[3]:
        pixels = colour.hue(pixels, torch.tensor([hue * float(strength[3])]))
    return pixels if chosen[4] else (pixels * contrast).clamp_(0, 1)
