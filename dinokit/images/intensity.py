"""The two kinds of pixels: uint8, where 255 is white, and float32, where 1.0 is and nothing forbids more or less.

Arithmetic on pixels must not change their range behind the user's back. An image keeps the wider of [0, 1] and its own
values: photos stay within black and white whatever their depth, and a thermal image of -40 to 120 is not cut off at 1.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

Image = UInt8[Tensor, "channel height width"] | Float32[Tensor, "channel height width"]
# one of several whose sizes have nothing to do with each other
AnyImage = UInt8[Tensor, "channel _ _"] | Float32[Tensor, "channel _ _"]
Images = UInt8[Tensor, "image channel height width"] | Float32[Tensor, "image channel height width"]


def to_unit(pixels: Tensor) -> Float32[Tensor, "*shape"]:
    """Return pixels with 1.0 as white; float32 as it is."""
    return pixels if pixels.dtype == torch.float32 else pixels.float().div_(255)


def value_range(image: Image) -> tuple[float, float]:
    """Return the least and the largest value that an image may take, 1.0 = white."""
    if image.dtype == torch.uint8:
        return 0.0, 1.0
    low, high = torch.aminmax(image)
    return min(float(low), 0.0), max(float(high), 1.0)


def stacked(images: Sequence[Image]) -> Images:
    """Stack images of one size; uint8 becomes float32 if another is (torch would take 255 for 255 times white)."""
    if len({image.dtype for image in images}) > 1:
        images = [to_unit(image) for image in images]
    return torch.stack(list(images))


def for_display(images: Images) -> UInt8[Tensor, "image channel height width"]:
    """Return pictures for a screen; the range of each float image becomes black to white."""
    if images.dtype == torch.uint8:
        return images
    ranges = torch.tensor([value_range(image) for image in images])[:, :, None, None, None]  # [image, 2, 1, 1, 1]
    low, high = ranges[:, 0], ranges[:, 1]
    return ((images - low) / (high - low) * 255).round_().to(torch.uint8)
