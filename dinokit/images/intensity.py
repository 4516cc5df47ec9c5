"""What a model sees of an image: pixels of two kinds, normalised, at a size that fits its patches.

uint8, where 255 is white, and float32, where 1.0 is and nothing forbids more or less. `normalised` is the one way from
either to what a network sees; the warnings say once where that cannot be meant. Arithmetic on pixels must not change
their range behind the user's back. An image keeps the wider of [0, 1] and its own values: photos stay within black and
white whatever their depth, and a thermal image of -40 to 120 is not cut off at 1.

Outside training an image is the centre square, resized (bicubic, antialiased) to the multiple of the patch nearest to
the size that is wanted; at native size nothing is cut and each side goes to its own nearest multiple of the patch.
Other ways, which some protocols have: images/transforms.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float, Float32, Shaped, UInt8
from torch import Tensor
from torch.nn import functional

from dinokit.core.messages import UserError, warn
from dinokit.core.numbers import above, between

Image = UInt8[Tensor, "channel height width"] | Float32[Tensor, "channel height width"]
# one of several whose sizes have nothing to do with each other
AnyImage = UInt8[Tensor, "channel _ _"] | Float32[Tensor, "channel _ _"]
Images = UInt8[Tensor, "image channel height width"] | Float32[Tensor, "image channel height width"]

LARGEST = 1 << 14  # side in pixels; above it a number in a weights file is damage, and would ask for gigabytes
_FAR = 8.0  # mean size of normalised values beyond which they cannot be meant
_DIM = 1 / 8  # of white
_warn_once = cache(warn)


@dataclass(frozen=True)
class Pixels:
    """What the images of a backbone must look like; the defaults are the statistics of ImageNet."""

    mean: tuple[float, ...] = between(-1e18, 1e18, (0.485, 0.456, 0.406))  # of values in [0, 1]; one, or per channel
    std: tuple[float, ...] = above(0, (0.229, 0.224, 0.225))  # divides what is left, as many
    size: int | None = between(1, LARGEST, None)  # side in pixels for evaluation; null keeps the native size
    white: float | None = above(0, None)  # what is 1.0 in files of more than 8 bits; null: by the kind of file

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std):
            raise UserError(f"pixels need as many means as stds, got {len(self.mean)} and {len(self.std)}")

    def check_channels(self, channels: int) -> None:
        """Raise a UserError if the normalisation is for another number of channels."""
        if len(self.mean) not in (1, channels):
            have = f"pixels.mean and pixels.std have {len(self.mean)} values, the images {channels} channels"
            raise UserError(f"{have}; give 1 or {channels} values")


def default_pixels(channels: int) -> Pixels:
    """Return ImageNet's statistics for three channels; for any other number, what takes [0, 1] to [-1, 1]."""
    return Pixels() if channels == 3 else Pixels((0.5,), (0.5,))


def to_unit(pixels: Tensor) -> Float32[Tensor, "*shape"]:
    """Return pixels with 1.0 as white; float32 as it is."""
    return pixels if pixels.dtype == torch.float32 else pixels.float().div_(255)


def normalised(
    values: Float[Tensor, "*batch channel height width"], pixels: Pixels
) -> Float[Tensor, "*batch channel height width"]:
    """Subtract the mean and divide by the deviation of each channel; 1.0 is white in the values."""
    pixels.check_channels(values.shape[-3])
    mean, std = (values.new_tensor(numbers)[:, None, None] for numbers in (pixels.mean, pixels.std))
    return (values - mean).div_(std)


def warn_if_far(values: Float[Tensor, "..."]) -> None:
    """Say, once, if normalised values are far from where networks have ever seen any.

    Whatever lies in [0, 1] is within 2.7 on average after any usual normalisation; 0 to 255 taken for it is at 500.
    """
    if values.numel() and float(values.detach().abs().mean()) > _FAR:
        _warn_once(
            "normalised images are far from 0, so 1.0 is not white in them: of files say which value is, --data.white "
            "255, or give the statistics that `dinokit data stats` finds; a tensor takes (image / 255 - mean) / std of "
            "model.pixels"
        )


def warn_of_values(images: Sequence[AnyImage], pixels: Pixels) -> None:
    """Say, once, if images are far too bright or too dark for their normalisation, as 12 bits in files of 16 are."""
    brightest, dim = 0.0, len(images) > 0
    for image in images:
        values = to_unit(image)
        shifted = normalised(values, pixels)
        warn_if_far(shifted)
        low, high = map(float, torch.aminmax(values))
        brightest = max(brightest, high)
        # below the mean even at its brightest; with statistics of their own, images are not
        dim = dim and image.dtype == torch.float32 and 0 <= low <= high < _DIM and float(shifted.max()) < 0
    if dim:
        _warn_once(
            f"the brightest value of {len(images)} images is {brightest:.3g} of white; if fewer bits are used than the "
            "files have, say which value is white, such as --data.white 4095"
        )


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


def prepare(image: Image, *, size: int | None, patch_size: int) -> Shaped[Tensor, "channel rows columns"]:
    """Resize and crop one image by the size rule above; its type stays, and one that fits is not touched."""
    height, width = image.shape[1:]
    if size is not None:
        # cut first: the same picture up to the outermost pixels, and a panorama does not grow before it is cut
        square = min(height, width)
        top, left = (height - square) // 2, (width - square) // 2
        image, height, width = image[:, top : top + square, left : left + square], size, size
    return resized(image, multiple(height, patch_size), multiple(width, patch_size))


def resized(image: Image, height: int, width: int) -> Shaped[Tensor, "channel rows columns"]:
    """Resize one image, bicubic and antialiased; its type stays, and one that fits is not touched."""
    if image.shape[1:] == (height, width):
        return image
    # uint8 in, uint8 out: rounds and clamps as Pillow does, without a float copy of a large photo
    found = functional.interpolate(image[None], size=(height, width), mode="bicubic", antialias=True)[0]
    return found if image.dtype == torch.uint8 else found.clamp_(*value_range(image))


def multiple(side: int, patch_size: int) -> int:
    """Return the multiple of the patch nearest to a side, at least one patch."""
    return max(1, round(side / patch_size)) * patch_size
