"""Features of every patch of an image of any size: what all looks are drawn from.

The short side is brought to a size, each side to its nearest multiple of the patch. Up to a window an image is seen
whole; a larger one window by window (dense/strips), so that memory follows the window. Source of the size rule: DINOv3
(arXiv:2508.10104), figures of features at high resolution.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy
import torch
from jaxtyping import Float32, Shaped, UInt8
from torch import Tensor

from dinokit.core.messages import UserError
from dinokit.dense import draw
from dinokit.dense.strips import strips
from dinokit.images import intensity
from dinokit.images.transforms import Seen, Short
from dinokit.models.features import Backbone

SIDE = 768  # pixels of the short side, for models that see any size; of the figures of DINOv3
LARGEST = 4096  # pixels of a side


class TooLong(UserError):
    """An image of which a side would be above the most; one of a source, that nobody named, is passed over."""


Map = tuple[str, UInt8[numpy.ndarray, "_ _ 3"]]  # what it shows, and the colour of every patch


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

    def at(self, x: float | int, y: float | int) -> tuple[int, int]:
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
        TooLong: if a side would be above 4096 pixels.
        UserError: if the model takes no such size.
    """
    return filled(backbone, bare(image, patch_size=backbone.patch_size, name=name, size=size))


def bare(image: intensity.Image, *, patch_size: int, name: str, size: int | None = None) -> Field:
    """Return a field without features, which are of no width: what is known before a model has looked; see `field`."""
    seen = shown(image, patch_size=patch_size, name=name, size=size)
    rows, columns = seen.shape[1] // patch_size, seen.shape[2] // patch_size
    return Field(name, seen, torch.empty(rows, columns, 0), (image.shape[2], image.shape[1]))


def filled(backbone: Backbone, empty: Field) -> Field:
    """Compute the features of a field of `bare`."""
    return replace(empty, patches=torch.cat([*strips(backbone, empty.seen)]))


def shown(image: intensity.Image, *, patch_size: int, name: str, size: int | None = None) -> Seen:
    """Return what a model with such patches sees of an image; see `field`."""
    way = Short(size or SIDE, patch_size)
    # before whole patches: models that stand beside each other pass over the same images
    rows, columns = Short(size or SIDE, 1).sides(image.shape[1], image.shape[2])
    if max(rows, columns) > LARGEST:
        raise TooLong(f"{name} would be {columns}x{rows} pixels, at most {LARGEST} a side fit; give a smaller --size")
    return way(image)


def joint(fields: Sequence[Field]) -> Float32[Tensor, "patch dim"]:
    """Return the patches of all images one behind the other."""
    return torch.cat([each.patches.flatten(0, 1) for each in fields])
