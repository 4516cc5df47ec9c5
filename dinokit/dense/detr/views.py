"""What a detector is shown of an image: frozen features of some layers, of the whole or also of windows of it.

An image is brought to a size, both sides to whole patches, mirrored or not. With n x n windows each side is cut into n
pieces of ceil((L // n) / patch) patches, the last one smaller, every window goes through the network alone, and what
comes out is put together; the whole image at the size of one window goes through it as well, is resized to the grid,
bilinearly, and stands behind the windows, so that a place knows its surroundings. Layers stand one behind the other.

Of a network that shrinks its maps the last stages may be read: fours of places of a finer map become one place of the
last one, four times as wide, so that it says more of where things end and the decoder has no more to look at. Each map
is divided by its root mean square over what goes through the network at once, an image or a window of it, for stages
differ in it.
Source: DINOv3 (arXiv:2508.10104, appendix D.9): 3 x 3 windows of 2,048 pixels, blocks 10, 20, 30 and 40.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Float32
from torch import Tensor
from torch.nn import functional as F

from dinokit.core.numbers import at_least
from dinokit.dense.maps import Layers, encode, frozen, tried
from dinokit.images import intensity
from dinokit.images.intensity import normalised, to_unit
from dinokit.models.convnets import ConvNet
from dinokit.models.features import Backbone
from dinokit.models.vit import VisionTransformer
from dinokit.peers.peer import Peer

QUARTERS = 4  # layers that are read of a transformer of ours
LEAST = 1e-6  # root mean square of a map, where it divides


@dataclass(frozen=True, kw_only=True, repr=False)
class View:
    """How an image is shown."""

    size: int = at_least(1, 512)  # pixels of the short side
    longest: int | None = at_least(1, None)  # pixels of the long side, where it would be longer; null: any
    windows: int = at_least(1, 1)  # along each side; 1: the whole image alone
    stages: int = at_least(1, 1)  # last ones that are read of a network that shrinks its maps

    def __repr__(self) -> str:
        """Say what is seen, as stamps do."""
        return f"View({', '.join(f'{name}={value!r}' for name, value in self.plain().items())})"

    def plain(self) -> dict[str, Any]:
        """Return what is seen, as stamps and heads hold it; of one stage nothing, as in those of before."""
        return {name: value for name, value in vars(self).items() if name != "stages" or value > 1}

    def of(self, backbone: Backbone) -> "View":
        """Return what is seen by a network: one that shrinks no maps has one stage."""
        return self if _shrinks(backbone) else replace(self, stages=1)

    def sides(self, height: int, width: int, patch: int) -> tuple[int, int]:
        """Return height and width as they are seen: whole patches, at least one."""
        scale = self.size / min(height, width)
        if self.longest is not None:
            scale = min(scale, self.longest / max(height, width))
        rows, columns = (max(-(-round(side * scale) // patch), 1) * patch for side in (height, width))
        return rows, columns


def layers_of(backbone: Backbone, view: View) -> Layers:
    """Return the layers that are read: the ends of the quarters of a transformer of ours, of others the last one.

    Of a network that shrinks its maps as many as the view says.
    """
    if _shrinks(backbone):
        return view.stages
    if not isinstance(backbone, VisionTransformer) or backbone.config.depth < QUARTERS:
        return 1
    depth = backbone.config.depth
    return tuple(depth * quarter // QUARTERS - 1 for quarter in range(1, QUARTERS + 1))


def _shrinks(backbone: Backbone) -> bool:
    return isinstance(backbone, ConvNet) or (isinstance(backbone, Peer) and not backbone.tokens)


def width_of(backbone: Backbone, view: View) -> int:
    """Return how many numbers there are of every place; if it is unsaid, runs the network on a square as it is seen."""
    layers, patch = layers_of(backbone, view), backbone.patch_size
    if isinstance(layers, int) and layers > 1:
        size = passes(*view.sides(1, 1, patch), windows=view.windows, patch=patch)[0]
        width = _folded([layer.maps for layer in tried(backbone, layers=layers, size=size)]).shape[1]
    else:
        width = backbone.dim * (1 if isinstance(layers, int) else len(layers))
    return width * (2 if view.windows > 1 else 1)


def features(
    backbone: Backbone, image: intensity.Image, view: View, *, mirror: bool = False
) -> Float32[Tensor, "feature rows columns"]:
    """Compute what a detector is shown of an image, on the CPU."""
    _, height, width = image.shape
    seen = intensity.resized(image, *view.sides(height, width, backbone.patch_size))
    with frozen(backbone) as device:
        ready = normalised(to_unit(seen[None]).to(device), backbone.pixels)
        return _shown(backbone, ready.flip(-1) if mirror else ready, view)[0].float().cpu()


def passes(height: int, width: int, *, windows: int, patch: int) -> list[tuple[int, int]]:
    """Return the sizes in which an image of some pixels, as it is seen, goes through the network."""
    if windows == 1:
        return [(height, width)]
    down, across = ([cut.stop - cut.start for cut in _cuts(side, windows, patch)] for side in (height, width))
    return [(rows, columns) for rows in down for columns in across] + [(down[0], across[0])]


def _shown(
    backbone: Backbone, images: Float[Tensor, "1 channel height width"], view: View
) -> Float[Tensor, "1 feature rows columns"]:
    layers = layers_of(backbone, view)
    if view.windows == 1:
        return _joined(backbone, images, layers)
    down, across = (list(_cuts(side, view.windows, backbone.patch_size)) for side in images.shape[2:])
    pieces = torch.cat(
        [
            torch.cat([_joined(backbone, images[..., rows, columns], layers) for columns in across], dim=3)
            for rows in down
        ],
        dim=2,
    )
    first = down[0].stop - down[0].start, across[0].stop - across[0].start
    small = _joined(backbone, F.interpolate(images, size=first, mode="bicubic", antialias=True), layers)
    wide = F.interpolate(small, size=tuple(pieces.shape[2:]), mode="bilinear", align_corners=False)
    return torch.cat([pieces, wide], dim=1)


def _joined(
    backbone: Backbone, images: Float[Tensor, "1 channel height width"], layers: Layers
) -> Float[Tensor, "1 feature rows columns"]:
    found, _ = encode(backbone, images, layers=layers)
    maps = [layer.maps for layer in found]
    return _folded(maps) if isinstance(layers, int) and layers > 1 else torch.cat(maps, dim=1)


def _folded(maps: Sequence[Float[Tensor, "1 _ _ _"]]) -> Float[Tensor, "1 feature rows columns"]:
    """Put maps behind each other, each divided by its root mean square, on the grid of the last.

    A map whose places are not whole fours (or sixteens) of that grid, as of a network without padding, is resized.
    """
    rows, columns = maps[-1].shape[2:]
    folded = []
    for each in maps:
        even = each / each.square().mean().sqrt().clamp(min=LEAST)
        fold = max(round(max(each.shape[2:]) / max(rows, columns)), 1)
        size = [rows * fold, columns * fold]
        if [*each.shape[2:]] != size:
            even = F.interpolate(even, size=size, mode="bilinear", align_corners=False)
        folded.append(F.pixel_unshuffle(even, fold))
    return torch.cat(folded, dim=1)


def _cuts(side: int, windows: int, patch: int) -> Iterator[slice]:
    """Yield where the windows of a side lie; a short side has fewer."""
    step = -(-(side // windows) // patch) * patch
    for start in range(0, side, max(step, patch)):
        yield slice(start, min(start + step, side))
