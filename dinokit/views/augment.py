"""The photometric part of a view: colour jitter, grayscale, blur, solarisation - drawn per image, applied to a batch.

Drawing and applying are apart: `draw` turns uniform numbers into parameters (so they can be a pure function of seed,
step and sample), `apply` is deterministic tensor algebra that touches only the chosen images and runs on any device.
Source: DINO (arXiv:2104.14294, after BYOL, arXiv:2006.07733, table 6), DINOv2 (arXiv:2304.07193) and DINOv3.

The published DINOv2 and DINOv3 code blurs with probability 1 - p instead of p: global crops 0 and 0.9 instead of 1 and
0.1 (local ones 0.5 either way). Both variants are here, by name; neither is hidden.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from dinokit.core.bounds import above, at_least, between
from dinokit.core.errors import UserError
from dinokit.images import colour
from dinokit.views import fused

DRAWS = 13  # uniforms per image: jitter or not, 4 for the order, 4 strengths, gray, blur, sigma, solarise
COLOUR_DRAWS = 10  # the first of them, down to gray


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
class Parameters:
    """What happens to each image of a batch."""

    jitter: Bool[np.ndarray, "sample"]
    order: Int64[np.ndarray, "sample 4"]  # of brightness 0, contrast 1, saturation 2, hue 3
    strength: Float32[np.ndarray, "sample 4"]  # of brightness, contrast, saturation (factors) and hue (shift)
    grayscale: Bool[np.ndarray, "sample"]
    blur: Bool[np.ndarray, "sample"]
    sigma: Float32[np.ndarray, "sample"]
    solarise: Bool[np.ndarray, "sample"]
    colours: fused.Maps | None  # jitter and grayscale in one; null: step by step

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
        colours = fused.compose(order=order, strength=at_work, grayscale=grayscale, channels=channels)
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


def apply(
    images: Float[Tensor, "sample channel height width"], parameters: Parameters, config: Config
) -> Float[Tensor, "sample channel height width"]:
    """Apply the drawn parameters to images in [0, 1]; the input may be overwritten."""
    if parameters.colours is not None:
        images = fused.apply(images, parameters.colours)
    else:
        images = _jittered(images, parameters, config)
    rows = np.flatnonzero(parameters.blur)
    images = _on(
        images, rows, lambda chosen, sigma: colour.blur(chosen, sigma, taps=config.blur_taps), parameters.sigma
    )
    rows, threshold = np.flatnonzero(parameters.solarise), config.solarise_threshold
    return _on(images, rows, lambda chosen, _: colour.solarise(chosen, threshold=threshold), parameters.sigma)


def _jittered(
    images: Float[Tensor, "sample channel height width"], parameters: Parameters, config: Config
) -> Float[Tensor, "sample channel height width"]:
    """Jitter and grayscale, step by step."""
    rgb = images.shape[1] == 3
    operations = (colour.brightness, colour.contrast, colour.saturation, colour.hue)[: 4 if rgb else 2]
    active = [number for number in range(len(operations)) if _spread(config)[number] > 0]
    for turn in range(4):
        for number in active:
            rows = np.flatnonzero(parameters.jitter & (parameters.order[:, turn] == number))
            images = _on(images, rows, operations[number], parameters.strength[:, number])
    if rgb:
        rows = np.flatnonzero(parameters.grayscale)
        images = _on(images, rows, lambda chosen, _: colour.grayscale(chosen), parameters.sigma)
    return images


def _spread(config: Config) -> tuple[float, float, float, float]:
    return config.brightness, config.contrast, config.saturation, config.hue


def _on(
    images: Tensor, rows: np.ndarray, operation: Callable[[Tensor, Tensor], Tensor], strength: np.ndarray
) -> Tensor:
    """Replace the chosen images by the result of the operation."""
    if len(rows) == 0:
        return images
    values = torch.from_numpy(strength[rows]).to(images.device)
    if len(rows) == len(images):
        return operation(images, values)
    index = torch.from_numpy(rows).to(images.device)
    return images.index_copy_(0, index, operation(images.index_select(0, index), values))
