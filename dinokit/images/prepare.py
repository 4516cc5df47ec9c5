"""How one image meets a model outside training: the centre square, one bicubic antialiased resize, no augmentation.

The size rule. With a size the centre square is resized to the multiple of the patch nearest to that size. Without it
(native size) nothing is cut and each side is resized to its own nearest multiple of the patch.
"""

import torch
from jaxtyping import Shaped
from torch import Tensor
from torch.nn import functional

from dinokit.images import intensity


def prepare(image: intensity.Image, *, size: int | None, patch_size: int) -> Shaped[Tensor, "channel rows columns"]:
    """Resize and crop one image by the size rule of this module; its type stays, and one that fits is not touched."""
    height, width = image.shape[1:]
    if size is None:
        return _resized(image, multiple(height, patch_size), multiple(width, patch_size))
    # cut first: the same picture up to the outermost pixels, and a panorama does not grow before it is cut
    square = min(height, width)
    top, left = (height - square) // 2, (width - square) // 2
    side = multiple(size, patch_size)
    return _resized(image[:, top : top + square, left : left + square], side, side)


def multiple(side: int, patch_size: int) -> int:
    """Return the multiple of the patch nearest to a side, at least one patch."""
    return max(1, round(side / patch_size)) * patch_size


def _resized(image: intensity.Image, height: int, width: int) -> Shaped[Tensor, "channel rows columns"]:
    if image.shape[1:] == (height, width):
        return image
    # uint8 in, uint8 out: rounds and clamps as Pillow does, without a float copy of a large photo
    resized = functional.interpolate(image[None], size=(height, width), mode="bicubic", antialias=True)[0]
    return resized if image.dtype == torch.uint8 else resized.clamp_(*intensity.value_range(image))
