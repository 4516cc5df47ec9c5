"""What a detector is shown of an image: frozen features of some layers, of the whole or also of windows of it.

An image is brought to a size, both sides to whole patches, mirrored or not. With n x n windows each side is cut into n
pieces of ceil((L // n) / patch) patches, the last one smaller, every window goes through the network alone, and what
comes out is put together; the whole image at the size of one window goes through it as well, is resized to the grid,
bilinearly, and stands behind the windows, so that a place knows its surroundings. Layers stand one behind the other.
Source: DINOv3 (arXiv:2508.10104, appendix D.9): 3 x 3 windows of 2,048 pixels, blocks 10, 20, 30 and 40.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32
from torch import Tensor
from torch.nn import functional as F

from dinokit.core.numbers import at_least
from dinokit.dense.maps import Layers, encode, frozen
from dinokit.images import intensity
from dinokit.images.intensity import normalised, to_unit
from dinokit.models.features import Backbone
from dinokit.models.vit import VisionTransformer

QUARTERS = 4  # layers that are read of a transformer of ours


@dataclass(frozen=True, kw_only=True)
class View:
    """How an image is shown."""

    size: int = at_least(1, 512)  # pixels of the short side
    longest: int | None = at_least(1, None)  # pixels of the long side, where it would be longer; null: any
    windows: int = at_least(1, 1)  # along each side; 1: the whole image alone

    def sides(self, height: int, width: int, patch: int) -> tuple[int, int]:
        """Return height and width as they are seen: whole patches, at least one."""
        scale = self.size / min(height, width)
        if self.longest is not None:
            scale = min(scale, self.longest / max(height, width))
        rows, columns = (max(-(-round(side * scale) // patch), 1) * patch for side in (height, width))
        return rows, columns


def layers_of(backbone: Backbone) -> Layers:
    """Return the layers that are read: the ends of the quarters of a transformer of ours, of others the last one."""
    if not isinstance(backbone, VisionTransformer) or backbone.config.depth < QUARTERS:
        return 1
    depth = backbone.config.depth
    return tuple(depth * quarter // QUARTERS - 1 for quarter in range(1, QUARTERS + 1))


def width_of(backbone: Backbone, view: View) -> int:
    """Return how many numbers there are of every place."""
    layers = layers_of(backbone)
    return backbone.dim * (1 if isinstance(layers, int) else len(layers)) * (2 if view.windows > 1 else 1)


def features(
    backbone: Backbone, image: intensity.Image, view: View, *, mirror: bool = False
) -> Float32[Tensor, "feature rows columns"]:
    """Compute what a detector is shown of an image, on the CPU."""
    _, height, width = image.shape
    seen = intensity.resized(image, *view.sides(height, width, backbone.patch_size))
    with frozen(backbone) as device:
        ready = normalised(to_unit(seen[None]).to(device), backbone.pixels)
        return _shown(backbone, ready.flip(-1) if mirror else ready, view.windows)[0].float().cpu()


def passes(height: int, width: int, *, windows: int, patch: int) -> list[tuple[int, int]]:
    """Return the sizes in which an image of some pixels, as it is seen, goes through the network."""
    if windows == 1:
        return [(height, width)]
    down, across = ([cut.stop - cut.start for cut in _cuts(side, windows, patch)] for side in (height, width))
    return [(rows, columns) for rows in down for columns in across] + [(down[0], across[0])]


def _shown(
    backbone: Backbone, images: Float[Tensor, "1 channel height width"], windows: int
) -> Float[Tensor, "1 feature rows columns"]:
    if windows == 1:
        return _joined(backbone, images)
    down, across = (list(_cuts(side, windows, backbone.patch_size)) for side in images.shape[2:])
    pieces = torch.cat(
        [torch.cat([_joined(backbone, images[..., rows, columns]) for columns in across], dim=3) for rows in down],
        dim=2,
    )
    first = down[0].stop - down[0].start, across[0].stop - across[0].start
    small = _joined(backbone, F.interpolate(images, size=first, mode="bicubic", antialias=True))
    wide = F.interpolate(small, size=tuple(pieces.shape[2:]), mode="bilinear", align_corners=False)
    return torch.cat([pieces, wide], dim=1)


def _joined(
    backbone: Backbone, images: Float[Tensor, "1 channel height width"]
) -> Float[Tensor, "1 feature rows columns"]:
    found, _ = encode(backbone, images, layers=layers_of(backbone))
    return torch.cat([layer.maps for layer in found], dim=1)


def _cuts(side: int, windows: int, patch: int) -> Iterator[slice]:
    """Yield where the windows of a side lie; a short side has fewer."""
    step = -(-(side // windows) // patch) * patch
    for start in range(0, side, max(step, patch)):
        yield slice(start, min(start + step, side))
