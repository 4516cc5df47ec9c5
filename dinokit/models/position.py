"""Learned position embeddings, resized bicubically to the grid at hand (ViT section 3.2; DINO; DINOv2).

The table holds a vector for the CLS token, then one for each cell of a square grid. Two ways of resizing exist because
two families of weights were trained with them; a model must keep its own:

- "offset" (DINO, DINOv2): by the scale factor (rows + 0.1) / side, without antialiasing. The 0.1 guards the rounding of
  the output size; as the given factor also sets the sampling coordinates, it shifts them slightly.
- "antialias" (DINOv2 with registers): by the output size, with antialiasing.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

OFFSET = 0.1  # patches


def resized(
    table: Float[Tensor, "1 position dim"], grid: tuple[int, int], *, how: Literal["offset", "antialias"]
) -> Float[Tensor, "1 token dim"]:
    """Fit the table to a grid of (rows, columns); the first position, of the CLS token, stays as it is."""
    side = math.isqrt(table.shape[1] - 1)
    if grid == (side, side):
        return table
    # float32: bicubic weights lose the third digit in bfloat16
    patches = torch.unflatten(table[:, 1:].float().transpose(1, 2), 2, (side, side))  # [1, dim, side, side]
    if how == "offset":
        scale = [(cells + OFFSET) / side for cells in grid]
        patches = F.interpolate(patches, scale_factor=scale, mode="bicubic")
    else:
        patches = F.interpolate(patches, size=list(grid), mode="bicubic", antialias=True)
    assert tuple(patches.shape[2:]) == grid
    rows = patches.flatten(2).transpose(1, 2).to(table.dtype)  # [1, patch, dim]
    return torch.cat([table[:, :1], rows], dim=1)
