"""Colour jitter and grayscale as one affine map of the colours of each image: a fast stand-in for the exact chain.

Brightness, contrast, saturation and grayscale are linear in the pixels and their mean, once the clamping to [0, 1]
after each of them is left out; the hue is turned about the gray axis instead of in HSV. A chain in any order is then

    colour -> deviation @ (colour - mean) + level @ mean, then clamped to [0, 1]

with two small matrices per image, known before any pixel is seen. On photos with the published
strengths this is 5 levels of 255 off the exact chain on average, nearly all of it the hue's.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from dinokit.images.colour import LUMINANCE


@dataclass(frozen=True)
class Maps:
    """One affine map of colours per image."""

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
        desaturate, turn = saturation * identity + (1 - saturation) * to_gray, _turn(hue)
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


def apply(
    images: Float[Tensor, "sample channel height width"], maps: Maps
) -> Float[Tensor, "sample channel height width"]:
    """Map the colours of images in [0, 1]."""
    each, rest = (torch.from_numpy(values).to(images) for values in (maps.deviation, maps.level - maps.deviation))
    pixels = images.flatten(2)  # [sample, channel, pixel]
    offset = rest @ pixels.mean(dim=2, keepdim=True)
    return torch.baddbmm(offset, each, pixels).clamp_(0, 1).view_as(images)


def _turn(hue: Float64[np.ndarray, "sample 1 1"]) -> Float64[np.ndarray, "sample 3 3"]:
    """Turn about the gray axis by a fraction of the circle (Rodrigues' formula); red + green + blue is kept."""
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    angle = 2 * math.pi * hue
    turned: Float64[np.ndarray, "sample 3 3"] = np.cos(angle) * np.eye(3) + np.sin(angle) * cross
    turned += (1 - np.cos(angle)) / 3
    return turned
