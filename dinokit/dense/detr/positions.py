"""Where a number lies, as sines and cosines of growing wavelengths: of places of a map, and of the sides of boxes.

Source: DETR (arXiv:2005.12872) for maps, whose coordinates go from 0 to 2 pi, wavelengths up to 10,000 times that.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

SLOWEST = 10_000.0


def waves(values: Float[Tensor, "*batch"], count: int) -> Float[Tensor, "*batch wave"]:
    """Return `count` numbers, an even number, of each value: its sine and cosine at count / 2 wavelengths."""
    steps = torch.arange(count // 2, device=values.device, dtype=values.dtype) * (2 / count)
    angles = values[..., None] * 2 * math.pi / SLOWEST**steps
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)


def of_map(rows: int, columns: int, dim: int, *, device: torch.device) -> Float[Tensor, "rows columns dim"]:
    """Return the position of every place of a map: half of the numbers say its row, half its column."""
    down, across = ((torch.arange(count, device=device) + 0.5) / count for count in (rows, columns))
    return torch.cat(
        [
            waves(down, dim // 2)[:, None].expand(-1, columns, -1),
            waves(across, dim // 2)[None].expand(rows, -1, -1),
        ],
        dim=-1,
    )


def of_boxes(
    boxes: Float[Tensor, "*#batch 4"], size: Float[Tensor, "*#batch 2"], dim: int
) -> Float[Tensor, "*batch wave"]:
    """Return the position of boxes in images of (width, height) pixels: `dim` numbers for their corners together."""
    return waves(boxes / torch.cat([size, size], dim=-1), dim // 4).flatten(-2)
