"""Maps of half and of twice the stride, as products, and where their places lie.

The numbers of a place lie together, so that a convolution of 2 x 2 at a stride of 2 is one product.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from dinokit.dense.detr import boxes as box


def halved(
    step: nn.Conv2d, level: Float[Tensor, "batch rows columns dim"]
) -> Float[Tensor, "batch half_rows half_columns dim"]:
    """Apply a convolution of 2 x 2 at a stride of 2; a row or column that is left over is left out."""
    rows, columns = (size // 2 for size in level.shape[1:3])
    even = level[:, : 2 * rows, : 2 * columns]
    fours = torch.unflatten(torch.unflatten(even, 2, (columns, 2)), 1, (rows, 2)).transpose(2, 3).flatten(3)
    return F.linear(fours, step.weight.permute(0, 2, 3, 1).flatten(1), step.bias)


def doubled(
    step: nn.ConvTranspose2d, then: nn.Linear, level: Float[Tensor, "batch rows columns dim"]
) -> Float[Tensor, "batch place out"]:
    """Apply a transposed convolution of 2 x 2 at a stride of 2 and what is linear behind it, as one product.

    The four places that one becomes follow each other (by_fours).
    """
    assert step.bias is not None
    weight = then.weight @ step.weight.permute(2, 3, 1, 0)  # [2, 2, out, dim]
    bias = then(step.bias)
    found = F.linear(level.flatten(1, 2), weight.flatten(0, 2), bias.repeat(4))
    return torch.unflatten(found, 2, (4, -1)).flatten(1, 2)


def by_fours(places: Float[Tensor, "place 4"], columns: int) -> Float[Tensor, "place 4"]:
    """Bring the places of a map of twice as many columns, row by row, into the order of `doubled`."""
    return torch.unflatten(places, 0, (-1, 2, columns, 2)).transpose(1, 2).flatten(0, 3)


def squares(
    rows: int, columns: int, stride: float, side: float
) -> tuple[Float[Tensor, "place 4"], Float[Tensor, "place 4"]]:
    """Return the field of every place, row by row, and a square about its middle, as corners in pixels."""
    down, across = ((torch.arange(count) + 0.5) * stride for count in (rows, columns))
    middle = torch.cartesian_prod(down, across).flip(-1)  # [place, 2] as x, y
    field, square = (torch.cat([middle, torch.full_like(middle, size)], dim=-1) for size in (stride, side))
    return box.corners(field), box.corners(square)
