"""Which place of one image is most like a place of another: nearest neighbours by cosine on interpolated patches.

A place is (x, y) as shares of the image's sides: (0, 0) is its upper left corner and (1, 1) its lower right one, so
that the centre of pixel i of n is at (i + 0.5) / n, whatever the image was resized to. The centre of a patch has the
value of the patch, the rest lies between (align_corners False); beyond the outer centres the border goes on.
"""

from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

CHUNK = 1 << 24  # numbers held at once: 64 MiB

Mode = Literal["bilinear", "bicubic"]


def sampled(
    maps: Float[Tensor, "dim rows columns"], places: Float[Tensor, "place 2"], *, mode: Mode = "bilinear"
) -> Float[Tensor, "place dim"]:
    """Interpolate a map of patches that covers the whole image; every row of the result has length 1."""
    grid = (2 * places - 1).to(maps)[None, None]  # [1, 1, place, 2] in [-1, 1]
    found = F.grid_sample(maps[None], grid, mode=mode, padding_mode="border", align_corners=False)
    return F.normalize(found[0, :, 0].T, dim=-1)


def lattice(count: int) -> Float[Tensor, "place 2"]:
    """Return the centres of count x count equal cells, row by row."""
    centres = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    rows, columns = torch.meshgrid(centres, centres, indexing="ij")
    return torch.stack([columns.flatten(), rows.flatten()], dim=1)


def nearest(
    queries: Float[Tensor, "query dim"],
    maps: Float[Tensor, "dim rows columns"],
    places: Float[Tensor, "place 2"],
    *,
    mode: Mode = "bilinear",
) -> tuple[Int64[Tensor, " query"], Float[Tensor, " query"]]:
    """Return which place of a map is most like each query, the first of equals, and their cosine.

    Args:
        queries: rows of length 1.
        places: at least one; the map is interpolated for a part of them at a time.
    """
    best = queries.new_full((len(queries),), -torch.inf)
    found = torch.zeros(len(queries), dtype=torch.int64, device=queries.device)
    step = max(1, CHUNK // max(queries.shape))
    for start in range(0, len(places), step):
        value, index = (queries @ sampled(maps, places[start : start + step], mode=mode).T).max(dim=1)
        better = value > best
        best = torch.where(better, value, best)
        found[better] = index[better] + start
    return found, best
