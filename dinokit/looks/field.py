"""Features of every patch of an image of any size: what all looks are drawn from.

The short side is brought to a size, each side to its nearest multiple of the patch. Up to a window an image is seen
whole; a larger one window by window, half a window apart, each patch as the mean of the windows that saw it, so that
memory follows the window. Source of the size rule: DINOv3 (arXiv:2508.10104), figures of features at high resolution.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy
import torch
from jaxtyping import Float32, Shaped, UInt8
from torch import Tensor

from dinokit.core.messages import UserError
from dinokit.dense import draw
from dinokit.dense.maps import frozen, starts
from dinokit.images import intensity
from dinokit.images.intensity import multiple, normalised, to_unit
from dinokit.models.features import Backbone

SIDE = 768  # pixels of the short side, for models that see any size; of the figures of DINOv3
WINDOW = 64  # patches of a window's side, 1024 pixels in patches of 16: attention grows with their fourth power
LARGEST = 4096  # pixels of a side

Map = tuple[str, UInt8[numpy.ndarray, "rows columns 3"]]  # what it shows, and the colour of every patch


@dataclass(frozen=True)
class Field:
    """An image and the features of its patches."""

    name: str
    seen: Shaped[Tensor, "channel height width"]  # uint8, or float32 with 1.0 as white; sides are whole patches
    patches: Float32[Tensor, "rows columns dim"]
    size: tuple[int, int]  # width and height of the image as it lies there, in pixels

    @property
    def picture(self) -> UInt8[numpy.ndarray, "height width 3"]:
        """What was seen, for a screen."""
        return draw.rgb(self.seen)

    def at(self, x: float, y: float) -> tuple[int, int]:
        """Return row and column of the patch at a pixel of the image as it lies there, or raise UserError."""
        (width, height), (rows, columns) = self.size, self.patches.shape[:2]
        if not (0 <= x < width and 0 <= y < height):
            raise UserError(f"expected x in 0..{width - 1} and y in 0..{height - 1} of {self.name}, got {x:g},{y:g}")
        return int(y / height * rows), int(x / width * columns)


Paint = Callable[[Field], list[Map]]  # what a look, fitted to some images, shows of one


def field(backbone: Backbone, image: intensity.Image, *, name: str, size: int | None = None) -> Field:
    """Compute the features of the patches of an image, after the final norm, in float32 on the CPU.

    Args:
        name: of the image, for messages and captions.
        size: pixels of the short side; None: 768.

    Raises:
        UserError: if a side would be above 4096 pixels, or the model takes no such size.
    """
    seen = shown(image, patch_size=backbone.patch_size, name=name, size=size)
    with frozen(backbone) as device:
        ready = normalised(to_unit(seen[None]).to(device), backbone.pixels)
        patches = _windows(backbone, ready, WINDOW)
    return Field(name, seen, patches, (image.shape[2], image.shape[1]))


def shown(
    image: intensity.Image, *, patch_size: int, name: str, size: int | None = None
) -> Shaped[Tensor, "channel height width"]:
    """Return what a model with such patches sees of an image; see `field`."""
    height, width = image.shape[1:]
    scale = (size or SIDE) / min(height, width)
    rows, columns = (multiple(round(side * scale), patch_size) for side in (height, width))
    if max(rows, columns) > LARGEST:
        raise UserError(f"{name} would be {columns}x{rows} pixels, at most {LARGEST} a side fit; give a smaller --size")
    return intensity.resized(image, rows, columns)


def _windows(
    backbone: Backbone, images: Float32[Tensor, "1 channel height width"], side: int
) -> Float32[Tensor, "rows columns dim"]:
    """Look through windows of so many patches a side."""
    patch = backbone.patch_size
    rows, columns = images.shape[2] // patch, images.shape[3] // patch
    total, hits = torch.zeros(0), torch.zeros(rows, columns, 1)
    for top in starts(rows, crop=min(side, rows), stride=max(side // 2, 1)):
        for left in starts(columns, crop=min(side, columns), stride=max(side // 2, 1)):
            down, right = min(top + side, rows), min(left + side, columns)
            features = backbone(images[..., top * patch : down * patch, left * patch : right * patch])
            if features.grid != (down - top, right - left):
                raise UserError(
                    f"{backbone.name or 'the model'} gives {features.grid[0]}x{features.grid[1]} patches of "
                    f"{down - top}x{right - left}; looks need one per square of {patch} pixels"
                )
            if not len(total):
                total = torch.zeros(rows, columns, features.patches.shape[-1])
            total[top:down, left:right] += features.patches[0].float().cpu().reshape(*features.grid, -1)
            hits[top:down, left:right] += 1
    return total / hits


def joint(fields: Sequence[Field]) -> Float32[Tensor, "patch dim"]:
    """Return the patches of all images one behind the other."""
    return torch.cat([each.patches.flatten(0, 1) for each in fields])
