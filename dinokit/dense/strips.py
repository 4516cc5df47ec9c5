"""Features of every patch of an image of any size, a strip of rows at a time, from the top to the bottom.

Up to a window an image is seen whole; a larger one window by window, half a window apart, each patch as the mean of the
windows that saw it (the seam rule of dense/maps). A strip is what no later window sees: memory is that of a window and
of one row of windows, however tall the image is.

A grid of patches may begin at any corner: the pixels before it, and those behind it that fill no patch, are not seen.
`shifted` sees an image on several such grids.
"""

from collections.abc import Iterator
from typing import final

import torch
from jaxtyping import Float32, Shaped
from torch import Tensor
from torch.nn import functional

from dinokit.core.device import Precision
from dinokit.core.messages import UserError
from dinokit.dense.maps import frozen, starts
from dinokit.features.embedding import encode
from dinokit.models.features import Backbone

WINDOW = 64  # patches of a window's side, 1024 pixels in patches of 16: attention grows with their fourth power

Strip = Float32[Tensor, "rows columns dim"]


def strips(
    backbone: Backbone,
    seen: Shaped[Tensor, "channel height width"],
    *,
    corner: tuple[int, int] = (0, 0),
    precision: Precision = "fp32",
) -> Iterator[Strip]:
    """Yield the features of patches after the final norm, on the CPU, so many rows as are known at a time.

    Args:
        seen: uint8, or float32 with 1.0 as white; at least one patch from the corner on.
        corner: pixels above and to the left of the first patch.

    Raises:
        UserError: if the model has no patch per square of pixels, as a ResNet.
    """
    patch, (above, before) = backbone.patch_size, corner
    rows, columns = (seen.shape[1] - above) // patch, (seen.shape[2] - before) // patch
    high, wide, stride = min(WINDOW, rows), min(WINDOW, columns), max(WINDOW // 2, 1)
    tops, lefts = starts(rows, crop=high, stride=stride), starts(columns, crop=wide, stride=stride)
    kept = kept_hits = torch.zeros(0, columns, 1)  # of rows that the next windows see, too
    for top, following in zip(tops, [*tops[1:], rows], strict=True):
        total, hits = kept, functional.pad(kept_hits, (0, 0, 0, 0, 0, high - len(kept_hits)))  # [high, columns, 1]
        for left in lefts:
            y, x = above + top * patch, before + left * patch
            found = _looked(backbone, seen[:, y : y + high * patch, x : x + wide * patch], (high, wide), precision)
            if total is kept:
                total = found.new_zeros(high, columns, found.shape[-1])
                total[: len(kept)] = kept
            total[:, left : left + wide] += found
            hits[:, left : left + wide] += 1
        known = following - top
        yield total[:known] / hits[:known]
        kept, kept_hits = total[known:].clone(), hits[known:]


def shifted(
    backbone: Backbone, seen: Shaped[Tensor, "channel height width"], shifts: int, *, precision: Precision = "fp32"
) -> Iterator[Strip]:
    """Yield the features of cells, a so many-th of a patch wide, each the mean of the patches that cover it.

    The image is seen on shifts x shifts grids, each a cell further down or right; near its border fewer cover a cell,
    for nothing is made up around it. shifts 1 is `strips`.

    Args:
        shifts: divides the patch.
    """
    if shifts == 1:
        yield from strips(backbone, seen, precision=precision)
        return
    patch = backbone.patch_size
    rows, columns = seen.shape[1] // patch, seen.shape[2] // patch
    grids = {
        (down, right): Rows(
            strips(backbone, seen, corner=(down * patch // shifts, right * patch // shifts), precision=precision)
        )
        for down in range(shifts if rows > 1 else 1)
        for right in range(shifts if columns > 1 else 1)
    }
    for row in range(rows):
        total, hits = torch.zeros(0), torch.zeros(shifts, columns * shifts, 1)
        for (down, right), grid in grids.items():
            first, last = (max(row - 1, 0), min(row + 1, rows - 1)) if down else (row, row + 1)
            found = grid(first, last).repeat_interleave(shifts, dim=1)  # [rows, columns in cells, dim]
            total = total if len(total) else found.new_zeros(shifts, columns * shifts, found.shape[-1])
            for cell in range(shifts):
                covering = (row * shifts + cell - down) // shifts
                if first <= covering < last:
                    total[cell, right : right + found.shape[1]] += found[covering - first]
                    hits[cell, right : right + found.shape[1]] += 1
        yield total / hits


@final
class Rows:
    """Rows of strips by their numbers; those that were asked for last, and later ones, are held."""

    def __init__(self, found: Iterator[Strip]) -> None:
        self._found, self._first = found, 0
        self._held = torch.zeros(0)

    def __call__(self, first: int, last: int) -> Strip:
        """Return the rows from the first on, before the last; the first may only grow."""
        self._held, self._first = self._held[first - self._first :], first
        while len(self._held) < last - first:
            strip = next(self._found)
            self._held = torch.cat([self._held, strip]) if len(self._held) else strip
        return self._held[: last - first]


def _looked(
    backbone: Backbone, pixels: Shaped[Tensor, "channel height width"], grid: tuple[int, int], precision: Precision
) -> Strip:
    """Look through one window."""
    with frozen(backbone) as device:
        features = encode(backbone, pixels[None].to(device), precision=precision)
    if features.grid != grid:
        raise UserError(
            f"{backbone.name or 'the model'} gives {features.grid[0]}x{features.grid[1]} patches of "
            f"{grid[0]}x{grid[1]}; looks need one per square of {backbone.patch_size} pixels"
        )
    return features.patches[0].float().cpu().reshape(*grid, -1)
