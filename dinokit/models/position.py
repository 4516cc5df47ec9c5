"""Learned positions of a vision transformer, and how their table is fitted to images of other sizes.

They are a vector for the CLS token, then one for each cell of a square grid. Two ways of resizing it bicubically exist
because two families of weights were trained with them; a model must keep its own:

- "offset" (DINO, DINOv2): by the scale factor (rows + 0.1) / side, without antialiasing. The 0.1 guards the rounding of
  the output size; as the given factor also sets the sampling coordinates, it shifts them slightly.
- "antialias" (DINOv2 with registers): by the output size, with antialiasing.
Source: ViT (arXiv:2010.11929) section 3.1; DINO (arXiv:2104.14294), DINOv2 (arXiv:2304.07193, 2309.16588).
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dinokit.models.features import is_recorded

OFFSET = 0.1  # patches
BORDER = 2  # cells beyond the table that a bicubic window reaches


def resized(
    table: Float[Tensor, "1 position dim"], grid: tuple[int, int], *, how: Literal["offset", "antialias"]
) -> Float[Tensor, "1 token dim"]:
    """Fit the table to a grid of (rows, columns); the first position, of the CLS token, stays as it is."""
    side = math.isqrt(table.shape[1] - 1)
    recorded = is_recorded()
    if not recorded and grid == (side, side):
        return table
    # the gradient of F.interpolate is never twice the same on a GPU
    learnt = table.is_cuda and table.requires_grad and torch.is_grad_enabled()
    # float32: bicubic weights lose the third digit in bfloat16
    patches = torch.unflatten(table[:, 1:].float().transpose(1, 2), 2, (side, side))  # [1, dim, side, side]
    if recorded or learnt:
        patches = by_products(patches, grid, how=how)
    elif how == "offset":
        scale = [(cells + OFFSET) / side for cells in grid]
        patches = F.interpolate(patches, scale_factor=scale, mode="bicubic")
        assert tuple(patches.shape[2:]) == grid
    else:
        patches = F.interpolate(patches, size=list(grid), mode="bicubic", antialias=True)
    rows = patches.flatten(2).transpose(1, 2).to(table.dtype)  # [1, patch, dim]
    return torch.cat([table[:, :1], rows], dim=1)


def by_products(
    patches: Float[Tensor, "1 dim side side"], grid: tuple[int, int], *, how: Literal["offset", "antialias"]
) -> Float[Tensor, "1 dim rows columns"]:
    """Compute what F.interpolate does as two matrix products.

    They stay right when recorded sizes change, and their gradient comes out the same every time, on any device.
    """
    side = patches.shape[2]
    steps = [torch.arange(cells, dtype=torch.float32, device=patches.device) for cells in grid]
    counts = [step[-1] + 1 for step in steps]  # tensors: a number would be written down as it is now
    native = (counts[0] == side) & (counts[1] == side)
    if how == "offset":  # beyond the border the table goes on as its last cell
        edge = torch.arange(-BORDER, side + BORDER, device=patches.device).clamp(0, side - 1)
        patches = patches.index_select(2, edge).index_select(3, edge)
    cells = torch.arange(patches.shape[2], dtype=torch.float32, device=patches.device)
    weights = []
    for step, count in zip(steps, counts):
        if how == "offset":
            scale = torch.where(native, 1.0, (count + OFFSET) / side)
            places = (step + 0.5) / scale - 0.5 + BORDER  # [cell]
            weights.append(_bicubic(places[:, None] - cells, -0.75))
        else:
            shrunk = side / count
            places = (step + 0.5) * shrunk - 0.5
            wide = _bicubic((places[:, None] - cells) / shrunk.clamp(min=1), -0.5)
            weights.append(wide / wide.sum(dim=1, keepdim=True))
    with torch.autocast(patches.device.type, enabled=False):  # a step's region would round what is float32 for a reason
        return weights[0] @ patches @ weights[1].T


def _bicubic(distances: Tensor, a: float) -> Tensor:
    """Return Keys' kernel (IEEE TASSP 29, 1981, equation 15); torch has a = -0.75, and -0.5 with antialiasing."""
    x = distances.abs()
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
