"""Axial rotary positions (RoPE): every pair of query and key channels is turned by an angle linear in y or in x.

Source: RoFormer (arXiv:2104.09864, section 3.2) made two-dimensional with normalised coordinates and random rescaling
in training ("RoPE-box jittering"), as in DINOv3 (arXiv:2508.10104, section 3.2). No weights; the same for all heads.
With Q = head_dim / 4 periods p_i, a patch at (y, x) in [-1, 1]^2 has the angles

    theta = 2 pi [y/p_1 ... y/p_Q, x/p_1 ... x/p_Q],      (a + ib)' = exp(i theta) (a + ib)

where channel j of a head is the real part a and channel j + head_dim/2 the imaginary part b.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dinokit.core.device import slices
from dinokit.core.messages import UserError
from dinokit.core.numbers import above
from dinokit.models.features import is_recorded


@dataclass(frozen=True, kw_only=True)
class RopeConfig:
    """Axial RoPE. Either `base`, or `min_period` and `max_period`."""

    base: float | None = above(0, 100.0)  # periods base^(i/Q), i = 0..Q-1; DINOv3 uses 100
    min_period: float | None = above(0, None)  # shortest period of a geometric series, in units of the coordinates
    max_period: float | None = above(0, None)  # its longest period
    coordinates: Literal["separate", "max", "min"] = "separate"  # side that normalises an axis: own, longest, shortest
    shift: float | None = above(0, None)  # training: add U(-shift, shift) to each axis
    jitter: float | None = above(1, None)  # training: multiply each axis by a log-uniform factor in [1/jitter, jitter]
    rescale: float | None = above(1, None)  # training: the same with one factor for both axes; DINOv3 uses 2
    dtype: Literal["float32", "bfloat16"] = "float32"  # of coordinates, angles, sines and cosines

    def __post_init__(self) -> None:
        ends = [end for end in (self.min_period, self.max_period) if end is not None]
        if len(ends) != (2 if self.base is None else 0):
            raise UserError(
                f"rope takes either base or both min_period and max_period, got base={self.base}, "
                f"min_period={self.min_period}, max_period={self.max_period}; set the others to null"
            )

    def periods(self, count: int) -> Float[Tensor, "{count}"]:
        """Compute the geometric series of periods; rounded to `dtype`, kept in float32."""
        steps = torch.arange(count, dtype=torch.float32, device="cpu")
        if self.base is not None:
            series = self.base ** (steps / count)
        else:
            assert self.min_period is not None
            assert self.max_period is not None
            series = self.min_period * (self.max_period / self.min_period) ** (steps / max(count - 1, 1))
        return series.to(getattr(torch, self.dtype)).float()


@dataclass(frozen=True)
class Rotation:
    """cos(theta) and +-sin(theta) of every token and channel; prefix tokens (CLS, registers) are turned by zero."""

    cos: Float[Tensor, "token head_dim"]
    sin: Float[Tensor, "token head_dim"]  # minus the sine in the first half of the channels

    def __call__(
        self, vectors: Float[Tensor, "batch token role head head_dim"]
    ) -> Float[Tensor, "batch token role head head_dim"]:
        """Rotate queries and keys, in the dtype of the table."""
        cos, sin = self.cos[:, None, None], self.sin[:, None, None]  # [token, 1, 1, head_dim]
        if torch.compiler.is_compiling() or is_recorded():  # the compiler fuses all of it, and its gradient
            return turned(vectors, cos, sin)
        if not (vectors.requires_grad and torch.is_grad_enabled()):
            return _turned_in_parts(vectors, cos, sin)
        found: Tensor = _Turn.apply(vectors, cos, sin)
        return found


class _Turn(torch.autograd.Function):
    """The gradient of a rotation is the rotation back; neither keeps a copy of the vectors."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned_in_parts(vectors, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turned_in_parts(gradient, cos, -sin), None, None


def _turned_in_parts(vectors: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    found = torch.empty_like(vectors, memory_format=torch.contiguous_format)
    for part in slices(vectors.device, rows=vectors[0].numel(), columns=len(vectors)):  # a few images at a time
        turned(vectors[part], cos, sin, out=found[part])
    return found


def turned(vectors: Tensor, cos: Tensor, sin: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Rotate by a table that fits the last axes of the vectors; into `out` if it is given."""
    exact, half = vectors.to(cos.dtype), vectors.shape[-1] // 2
    rotated = torch.mul(exact, cos, out=out if out is not None and out.dtype == cos.dtype else None)
    # half by half: to exchange a and b first would be a copy, and takes up to eight times as long (docs/log.md)
    rotated[..., :half].addcmul_(exact[..., half:], sin[..., :half])
    rotated[..., half:].addcmul_(exact[..., :half], sin[..., half:])
    if out is None:
        return rotated.to(vectors.dtype)
    return out if rotated is out else out.copy_(rotated)


class Rope(nn.Module):
    """Makes the rotation of a grid of patches; keeps the periods as a buffer and uses them as loaded.

    The periods stay float32 when the network is cast: rounded to bfloat16, each would be wrong by up to 0.2 %, and an
    angle is computed from them in the dtype of the config.
    """

    periods: Tensor

    def __init__(self, head_dim: int, config: RopeConfig) -> None:
        super().__init__()
        self.config = config
        self.constants = {"periods": partial(config.periods, head_dim // 4)}
        self.register_buffer("periods", torch.empty(head_dim // 4))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Rope":
        exact = self.periods
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.periods.dtype != exact.dtype:
            self.periods = exact.to(self.periods.device)
        return self

    def rotations(self, grid: tuple[int, int], *, prefix: int, blocks: int) -> Iterator[Rotation]:
        """Yield the rotation of each block: one and the same, unless training augments the coordinates.

        Then every block draws its own from the global torch generator; a draw is shared by the whole batch.
        """
        config = self.config
        augmented = self.training and any((config.shift, config.jitter, config.rescale))
        if not augmented:
            yield from [self(grid, prefix=prefix)] * blocks
            return
        for _ in range(blocks):
            yield self(grid, prefix=prefix)

    def forward(self, grid: tuple[int, int], *, prefix: int) -> Rotation:
        """Compute the rotation for `prefix` tokens without a position followed by the patches of a grid."""
        dtype = getattr(torch, self.config.dtype)
        coords = coordinates(grid, self.config.coordinates, dtype=dtype, device=self.periods.device)
        if self.training:
            coords = augmented_coordinates(coords, self.config)
        angles = 2 * math.pi * coords[:, :, None] / self.periods.to(dtype)  # [patch, axis, period]
        angles = angles.flatten(1)  # [patch, head_dim/2]
        angles = torch.cat([angles.new_zeros(prefix, angles.shape[1]), angles])  # [token, head_dim/2]
        cos, sin = angles.cos(), angles.sin()
        return Rotation(torch.cat([cos, cos], dim=1), torch.cat([-sin, sin], dim=1))


def coordinates(
    grid: tuple[int, int],
    how: Literal["separate", "max", "min"],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
) -> Float[Tensor, "patch 2"]:
    """Place the centres of the patches, row-major, as (y, x); each axis spans (-1, 1) if "separate"."""
    rows, columns = grid
    sides: tuple[int | Tensor, int | Tensor] = grid
    if how != "separate":  # tensors, which stay right where sizes are recorded
        counts = [torch.arange(cells, device=device)[-1] + 1 for cells in grid]
        sides = ((torch.maximum if how == "max" else torch.minimum)(*counts),) * 2
    y = (torch.arange(rows, dtype=dtype, device=device) + 0.5) / sides[0]
    x = (torch.arange(columns, dtype=dtype, device=device) + 0.5) / sides[1]
    cells = torch.stack([y[:, None].expand(rows, columns), x.expand(rows, columns)], dim=-1)  # [rows, columns, 2]
    return 2 * cells.flatten(0, 1) - 1


def augmented_coordinates(coords: Float[Tensor, "patch 2"], config: RopeConfig) -> Float[Tensor, "patch 2"]:
    """Shift, jitter, rescale, in this order, with draws from the global torch generator."""
    if config.shift is not None:
        coords = coords + torch.empty(2, dtype=coords.dtype, device=coords.device).uniform_(-config.shift, config.shift)
    for factors, limit in ((2, config.jitter), (1, config.rescale)):
        if limit is not None:
            bound = math.log(limit)
            coords = coords * coords.new_empty(factors).uniform_(-bound, bound).exp()
    return coords
