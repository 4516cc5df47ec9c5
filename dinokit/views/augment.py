"""The photometric part of a view: colour jitter, grayscale, blur, solarisation - drawn per image, applied to a batch.

Drawing and applying are apart: `draw` turns uniform numbers into parameters (so they can be a pure function of seed,
step and sample), `apply` is deterministic tensor algebra that touches only the chosen images and runs on any device.
Source: DINO (arXiv:2104.14294, after BYOL, arXiv:2006.07733, table 6), DINOv2 (arXiv:2304.07193) and DINOv3.

The published DINOv2 and DINOv3 code blurs with probability 1 - p instead of p: global crops 0 and 0.9 instead of 1 and
0.1 (local ones 0.5 either way). Both variants are here, by name; neither is hidden.

The operations are torchvision's (v2 functional, float images in [0, 1]), with one strength per image; tests compare
them. All results stay in [0, 1]. Saturation, hue and grayscale mean something for RGB only; brightness, contrast, blur
and solarisation work for any number of channels (the contrast of other than three channels is taken around the mean of
all of them).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Float64, Int64
from torch import Tensor

from dinokit.core.messages import UserError
from dinokit.core.numbers import above, at_least, between
from dinokit.views.noise import Noise

Images = Float[Tensor, "sample channel height width"]  # values in [0, 1]
Colours = Float[Tensor, "sample 3 height width"]
Strength = Float[Tensor, "sample"]  # of an operation on each image

DRAWS = 13  # uniforms per image: jitter or not, 4 for the order, 4 strengths, gray, blur, sigma, solarise
LUMINANCE = (0.2989, 0.587, 0.114)  # ITU-R BT.601
_BLOCK = 32  # pixels blurred by one product of matrices; longer wastes products with 0, shorter reads edges twice


@dataclass(frozen=True, kw_only=True)
class Config:
    """Photometric augmentation of one kind of crop, in this order: jitter, grayscale, blur, solarisation."""

    chain: Literal["exact", "fused"] = "exact"  # fused: jitter and grayscale as one map
    jitter: float = between(0, 1, 0.8)  # probability of the colour jitter: the four operations below in random order
    brightness: float = between(0, 1, 0.4)  # factor in [1 - b, 1 + b]
    contrast: float = between(0, 1, 0.4)  # factor in [1 - c, 1 + c]
    saturation: float = between(0, 1, 0.2)  # factor in [1 - s, 1 + s]; RGB only, skipped for other numbers of channels
    hue: float = between(0, 0.5, 0.1)  # shift in [-h, h], fraction of the colour circle, at most 0.5; RGB only
    grayscale: float = between(0, 1, 0.2)  # probability; RGB only
    blur: float = between(0, 1, 0.5)  # probability
    blur_sigma: tuple[float, float] = above(0, (0.1, 2.0), rising=True)  # pixels; range of the standard deviation
    blur_taps: int = at_least(1, 9)  # pixels; width of the kernel, odd (9 in DINOv2 and DINOv3)
    solarise: float = between(0, 1, 0.0)  # probability
    solarise_threshold: float = between(0, 1, 128 / 255)  # in [0, 1]; values from here on are inverted
    noise: Noise | None = None  # in a square, after all of these

    def __post_init__(self) -> None:
        if self.blur_taps % 2 == 0:
            raise UserError(f"blur_taps must be odd, got {self.blur_taps}; 9 in DINOv2 and DINOv3")


def intended() -> tuple[Config, Config, Config]:
    """Return (first global, second global, local) as the papers describe it."""
    first = Config(blur=1.0)
    return first, replace(first, blur=0.1, solarise=0.2), replace(first, blur=0.5)


def published() -> tuple[Config, Config, Config]:
    """Return (first global, second global, local) as the DINOv2 and DINOv3 code runs it: blur with 0, 0.9 and 0.5."""
    first, second, local = intended()
    return replace(first, blur=0.0), replace(second, blur=0.9), replace(local, blur=0.5)


def dino() -> tuple[Config, Config, Config]:
    """Return (first global, second global, local) of DINO v1: as intended, with a kernel wide enough for every sigma.

    The official code blurs with Pillow's approximation of a Gaussian (three box filters); this is the Gaussian itself.
    """
    first, second, local = intended()
    return replace(first, blur_taps=17), replace(second, blur_taps=17), replace(local, blur_taps=17)


@dataclass(frozen=True)
class Maps:
    """Jitter and grayscale as one affine map of colours per image: a fast stand-in for the exact chain.

    Brightness, contrast, saturation and grayscale are linear in the pixels and their mean, once the clamping to [0, 1]
    after each of them is left out; the hue is turned about the gray axis instead of in HSV. A chain in any order is

        colour -> deviation @ (colour - mean) + level @ mean, clamped to [0, 1]

    with two small matrices per image, known before any pixel is seen. On photos with the published strengths this is 5
    levels of 255 off the exact chain on average, nearly all of it the hue's.
    """

    deviation: Float64[np.ndarray, "sample channel channel"]  # of a pixel from the mean of the image
    level: Float64[np.ndarray, "sample channel channel"]  # of that mean

    def rows(self, chosen: slice | Int64[np.ndarray, "chosen"]) -> "Maps":
        """Return the maps of some of the images."""
        return Maps(self.deviation[chosen], self.level[chosen])


def compose(
    *,
    order: Int64[np.ndarray, "sample 4"],
    strength: Float[np.ndarray, "sample 4"],
    grayscale: Bool[np.ndarray, "sample"],
    channels: int,
) -> Maps:
    """Compose the operations on every image.

    Args:
        order: of brightness 0, contrast 1, saturation 2, hue 3; the last two and grayscale are for RGB only.
        strength: of these four; 1, 1, 1, 0 change nothing.
    """
    identity = np.eye(channels)
    rgb = channels == 3
    brightness, contrast, saturation, hue = strength.astype(np.float64).T[:, :, None, None]  # [sample, 1, 1] each
    to_gray = np.tile(LUMINANCE if rgb else np.full(channels, 1 / channels), (channels, 1))
    steps = [  # what each does to the deviation from the mean, and to the mean
        (brightness * identity, brightness * identity),
        (contrast * identity, contrast * identity + (1 - contrast) * to_gray),
    ]
    if rgb:
        desaturate = saturation * identity + (1 - saturation) * to_gray
        # about the gray axis by a fraction of the circle (Rodrigues' formula); red + green + blue is kept
        cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
        angle = 2 * math.pi * hue
        turn = np.cos(angle) * np.eye(3) + np.sin(angle) * cross
        turn += (1 - np.cos(angle)) / 3
        steps += [(desaturate, desaturate), (turn, turn)]
    deviation = level = np.tile(identity, (len(order), 1, 1))
    for place in range(4):
        for number, (on_deviation, on_level) in enumerate(steps):
            now = (order[:, place] == number)[:, None, None]
            deviation = np.where(now, on_deviation @ deviation, deviation)
            level = np.where(now, on_level @ level, level)
    if rgb:
        now = grayscale[:, None, None]
        deviation, level = np.where(now, to_gray @ deviation, deviation), np.where(now, to_gray @ level, level)
    return Maps(deviation, level)


@dataclass(frozen=True)
class Parameters:
    """What happens to each image of a batch."""

    jitter: Bool[np.ndarray, "sample"]
    order: Int64[np.ndarray, "sample 4"]  # of brightness 0, contrast 1, saturation 2, hue 3
    strength: Float32[np.ndarray, "sample 4"]  # of brightness, contrast, saturation (factors) and hue (shift)
    grayscale: Bool[np.ndarray, "sample"]
    blur: Bool[np.ndarray, "sample"]
    sigma: Float32[np.ndarray, "sample"]
    solarise: Bool[np.ndarray, "sample"]
    colours: Maps | None  # jitter and grayscale in one; null: step by step

    def rows(self, chosen: slice | Int64[np.ndarray, "chosen"]) -> "Parameters":
        """Return the parameters of some of the images."""
        values = {name: getattr(self, name)[chosen] for name in self.__dataclass_fields__ if name != "colours"}
        return Parameters(**values, colours=None if self.colours is None else self.colours.rows(chosen))


def draw(config: Config, uniforms: Float[np.ndarray, "sample draw"], *, channels: int = 3) -> Parameters:
    """Turn DRAWS uniform numbers per image into parameters for images of so many channels."""
    spread = np.array([config.brightness, config.contrast, config.saturation, config.hue])
    middle = np.array([1.0, 1.0, 1.0, 0.0])
    low, high = config.blur_sigma
    jitter, order = uniforms[:, 0] < config.jitter, uniforms[:, 1:5].argsort(axis=1)
    strength = (middle + spread * (2 * uniforms[:, 5:9] - 1)).astype(np.float32)
    grayscale = uniforms[:, 9] < config.grayscale
    colours = None
    if config.chain == "fused":
        at_work = np.where(jitter[:, None], strength, middle)
        colours = compose(order=order, strength=at_work, grayscale=grayscale, channels=channels)
    return Parameters(
        jitter=jitter,
        order=order,
        strength=strength,
        grayscale=grayscale,
        blur=uniforms[:, 10] < config.blur,
        sigma=(low + (high - low) * uniforms[:, 11]).astype(np.float32),
        solarise=uniforms[:, 12] < config.solarise,
        colours=colours,
    )


def alike(parameters: Parameters) -> Int64[np.ndarray, "sample"]:
    """Return the numbers of the images so that those with the same operations are neighbours: quick to do together."""
    order = np.where(parameters.jitter, parameters.order @ 4 ** np.arange(4), -1)
    exact = parameters.colours is None
    return np.lexsort([parameters.blur, order] if exact else [parameters.blur])


def apply(images: Images, parameters: Parameters, config: Config) -> Images:
    """Apply the drawn parameters to images in [0, 1]; the input may be overwritten."""
    rgb = images.shape[1] == 3
    if parameters.colours is not None:
        images = mapped(images, parameters.colours)
    else:
        operations = [brightness, contrast, saturation, hue][: 4 if rgb else 2]
        spread = (config.brightness, config.contrast, config.saturation, config.hue)
        for turn in range(4):
            for number, operation in enumerate(operations):
                if spread[number] > 0:
                    chosen = parameters.jitter & (parameters.order[:, turn] == number)
                    images = _on(images, chosen, operation, parameters.strength[:, number])
        if rgb:
            images = _on(images, parameters.grayscale, lambda some, _: grayscale(some), parameters.sigma)
    images = _on(
        images, parameters.blur, lambda some, sigma: blur(some, sigma, taps=config.blur_taps), parameters.sigma
    )
    threshold = config.solarise_threshold
    return _on(images, parameters.solarise, lambda some, _: solarise(some, threshold=threshold), parameters.sigma)


def _on(
    images: Tensor,
    chosen: Bool[np.ndarray, "sample"],
    operation: Callable[[Tensor, Tensor], Tensor],
    strength: Float[np.ndarray, "sample"],
) -> Tensor:
    """Replace the chosen images by the result of the operation."""
    rows = np.flatnonzero(chosen)
    if len(rows) == 0:
        return images
    values = torch.from_numpy(strength[rows]).to(images.device)
    if len(rows) == len(images):
        return operation(images, values)
    index = torch.from_numpy(rows).to(images.device)
    return images.index_copy_(0, index, operation(images.index_select(0, index), values))


def mapped(images: Images, maps: Maps) -> Images:
    """Map the colours of images in [0, 1]."""
    each, rest = (torch.from_numpy(values).to(images) for values in (maps.deviation, maps.level - maps.deviation))
    pixels = images.flatten(2)  # [sample, channel, pixel]
    offset = rest @ pixels.mean(dim=2, keepdim=True)
    return torch.baddbmm(offset, each, pixels).clamp_(0, 1).view_as(images)


def brightness(images: Images, factor: Strength) -> Images:
    """Scale the values; 0 is black, 1 the image itself."""
    return (images * factor[:, None, None, None]).clamp_(0, 1)


def contrast(images: Images, factor: Strength) -> Images:
    """Move the values away from the mean luminance of the image; 0 is flat grey, 1 the image itself."""
    mean = _luminance(images).mean(dim=(1, 2, 3)) if images.shape[1] == 3 else images.mean(dim=(1, 2, 3))
    return (images * factor[:, None, None, None]).add_(((1 - factor) * mean)[:, None, None, None]).clamp_(0, 1)


def saturation(images: Colours, factor: Strength) -> Colours:
    """Move every pixel away from its own luminance; 0 is grayscale, 1 the image itself."""
    gray = _luminance(images).mul_((1 - factor)[:, None, None, None])
    return (images * factor[:, None, None, None]).add_(gray).clamp_(0, 1)


def hue(images: Colours, shift: Strength) -> Colours:
    """Turn the hue by a fraction of the colour circle, in [-0.5, 0.5], in HSV space."""
    red, green, blue = images.transpose(0, 1).contiguous()  # three planes, each [sample, height, width]
    value = torch.maximum(torch.maximum(red, green), blue)
    low = torch.minimum(torch.minimum(red, green), blue)
    chroma = value - low
    # hue * chroma in sixths of the circle, from the largest channel: 0 red, 2 green, 4 blue. It is chosen by weights of
    # 0 and 1, for torch.where and comparisons take 8 times as long
    not_red, not_green = (value - red).sign_(), value.sub_(green).sign_()
    from_green, from_blue = (blue - red).add_(chroma, alpha=2), (red - green).add_(chroma, alpha=4)
    turn = torch.lerp(green - blue, torch.lerp(from_green, from_blue, not_green), not_red)
    width = chroma.mul_(6)
    turn.div_(width.clamp(min=1e-12)).add_(shift[:, None, None])  # gray pixels: width 0 makes the hue irrelevant
    turn.sub_(turn.floor())  # [0, 1); half the cost of remainder
    out = torch.empty_like(images)
    high, lower = torch.add(low, width, alpha=1 / 3), low.sub_(width, alpha=1 / 6)
    torch.addcmul(lower, width, (turn - 1 / 2).abs_().clamp_(1 / 6, 1 / 3), out=out[:, 0])
    torch.addcmul(high, width, (turn - 1 / 3).abs_().clamp_(1 / 6, 1 / 3), value=-1, out=out[:, 1])
    torch.addcmul(high, width, (turn - 2 / 3).abs_().clamp_(1 / 6, 1 / 3), value=-1, out=out[:, 2])
    return out.clamp_(0, 1)  # rounding


def grayscale(images: Colours) -> Colours:
    """Replace all three channels by the luminance."""
    return _luminance(images).repeat(1, 3, 1, 1)  # no expand: the result may be written to


def solarise(images: Images, *, threshold: float) -> Images:
    """Invert the values that reach the threshold."""
    return torch.where(images >= threshold, 1 - images, images)


def blur(images: Images, sigma: Strength, *, taps: int) -> Images:
    """Convolve with a Gaussian of `taps` x `taps` pixels (odd; under twice the image side), reflecting the edges.

    Rows, then columns, in blocks that are multiplied by one banded matrix: on a CPU 3 times faster than adding shifted
    images.
    """
    samples, channels, height, width = images.shape
    radius = taps // 2
    reach = _BLOCK + 2 * radius
    offsets = torch.arange(taps, device=sigma.device) - radius
    weights = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    weights = weights / weights.sum(dim=1, keepdim=True)
    band = F.pad(weights, (0, _BLOCK))  # rows of this length, shifted by one each when read as rows one shorter
    matrix = band.repeat(1, _BLOCK)[:, : _BLOCK * reach].view(-1, _BLOCK, reach)
    right, bottom = -width % _BLOCK, -height % _BLOCK  # up to whole blocks; what comes of these pixels is cut off
    padded = F.pad(images, (radius,) * 4, mode="reflect")
    if right or bottom:
        padded = F.pad(padded, (0, right, 0, bottom))
    rows = padded.unfold(3, reach, _BLOCK).reshape(samples, -1, reach)  # [sample, channel * row * block, reach]
    lines = (rows @ matrix.transpose(1, 2)).view(samples, channels, height + 2 * radius + bottom, width + right)
    columns = lines.unfold(2, reach, _BLOCK).transpose(3, 4)  # [sample, channel, block, reach, width]
    return (matrix[:, None, None] @ columns).flatten(2, 3)[..., :height, :width].contiguous()


def _luminance(images: Colours) -> Float[Tensor, "sample 1 height width"]:
    red, green, blue = LUMINANCE
    gray = images[:, :1] * red
    return gray.add_(images[:, 1:2], alpha=green).add_(images[:, 2:], alpha=blue)
