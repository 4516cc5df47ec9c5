"""Frozen patch maps of images of any size, and the way back from patches to pixels.

An image whose sides are no multiples of the patch is padded with zeros (the mean colour, once normalised) on all sides:
of ceil(s / p) p - s pixels the half, rounded down, comes before, the rest after. Values of patches are resized to the
padded image, bilinearly, and cut back.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from dinokit.dense.embedding import device_of, normalised
from dinokit.dense.windows import Predict, resized
from dinokit.images import intensity
from dinokit.models.features import Backbone, Features

Layers = int | tuple[int, ...]  # the last so many, or their indices


@dataclass(frozen=True)
class Frame:
    """Where an image of (height, width) pixels lies within its padded twin."""

    size: tuple[int, int]
    padded: tuple[int, int]
    corner: tuple[int, int]  # top, left


@contextmanager
def frozen(backbone: Backbone) -> Iterator[torch.device]:
    """Put a backbone into evaluation mode, without gradients, for a while; yield the device it is on."""
    was_training = backbone.training
    backbone.eval()
    try:
        with torch.no_grad():
            yield device_of(backbone)
    finally:
        backbone.train(was_training)


def prepared(
    image: intensity.Image, backbone: Backbone, *, short: int | None = None
) -> Float[Tensor, "1 channel rows columns"]:
    """Normalise one image as the backbone expects, on its device, its short side resized to so many pixels."""
    return normalised(backbone, scaled(image, short=short, device=device_of(backbone)))


def scaled(
    image: intensity.Image, *, short: int | None, device: torch.device | None = None
) -> Float[Tensor, "1 channel rows columns"]:
    """Return an image in floats, 1.0 white, its short side resized to so many pixels; short None keeps the size.

    Bicubic and antialiased, within the image's range.
    """
    values = intensity.to_unit(image[None]).float().to(device)
    height, width = image.shape[1:]
    scale = 1.0 if short is None else short / min(height, width)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    if size == (height, width):
        return values
    return F.interpolate(values, size=size, mode="bicubic", antialias=True).clamp_(*intensity.value_range(image))


def encode(
    backbone: Backbone, images: Float[Tensor, "batch channel height width"], *, layers: Layers = 1, norm: bool = True
) -> tuple[tuple[Features, ...], Frame]:
    """Compute the features of normalised images after the given layers, and where the images lie in them.

    Args:
        layers: the last so many, or their indices.
        norm: pass each through the final norm.
    """
    padded, frame = pad(images, backbone.patch_size)
    return backbone.intermediate(padded, layers, norm=norm), frame


def pad(
    images: Float[Tensor, "batch channel height width"], patch: int
) -> tuple[Float[Tensor, "batch channel rows columns"], Frame]:
    """Pad images with zeros to the next multiples of the patch, as evenly as can be."""
    height, width = images.shape[2:]
    down, right = -height % patch, -width % patch
    top, left = down // 2, right // 2
    frame = Frame((height, width), (height + down, width + right), (top, left))
    return F.pad(images, (left, right - left, top, down - top)), frame


def at_pixels(
    maps: Float[Tensor, "batch value rows columns"], frame: Frame
) -> Float[Tensor, "batch value height width"]:
    """Bring values of patches, or of any finer grid of the padded image, to the pixels of the image."""
    (top, left), (height, width) = frame.corner, frame.size
    return resized(maps, frame.padded)[..., top : top + height, left : left + width]


def predictor(backbone: Backbone, head: nn.Module, *, layers: Layers = 1, norm: bool = True) -> Predict:
    """Return what predicts the values of every pixel of normalised images; call it within `frozen`.

    Args:
        head: a sequence of Features, one per layer -> [batch, value, rows, columns].
    """

    def predict(images: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch value height width"]:
        features, frame = encode(backbone, images, layers=layers, norm=norm)
        return at_pixels(head(features), frame)

    return predict


def width(backbone: Backbone, *, layers: Layers = 1) -> int:
    """Return how many numbers the patches of these layers hold together."""
    side = 2 * backbone.patch_size
    with frozen(backbone) as device:
        seen = backbone.intermediate(torch.zeros(1, backbone.channels, side, side, device=device), layers)
    return sum(features.patches.shape[-1] for features in seen)
