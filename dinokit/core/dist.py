"""Collectives that are the identity without a process group, so that the same code runs on one process.

Gradients: only `all_gather` carries them. All ranks must call each function together.
"""

from typing import Any

import torch
import torch.distributed as group
from jaxtyping import Shaped
from torch import Tensor
from torch.autograd.function import once_differentiable


def is_active() -> bool:
    """Tell whether a process group exists."""
    return group.is_available() and group.is_initialized()


def rank() -> int:
    """Return this process's number, 0 without a process group."""
    return group.get_rank() if is_active() else 0


def world_size() -> int:
    """Return the number of processes, 1 without a process group."""
    return group.get_world_size() if is_active() else 1


def all_reduce_sum(tensor: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
    """Return the sum over all ranks as a new tensor without gradient."""
    return _reduced(tensor, group.ReduceOp.SUM)


def all_reduce_max(tensor: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
    """Return the elementwise maximum over all ranks as a new tensor without gradient."""
    return _reduced(tensor, group.ReduceOp.MAX)


def all_gather(tensor: Shaped[Tensor, "row *shape"]) -> Shaped[Tensor, "rows *shape"]:
    """Concatenate every rank's rows in rank order; the gradient of a row sums what all ranks say of it.

    Every rank must hold the same number of rows.
    """
    return tensor if world_size() == 1 else _Gather.apply(tensor)


def _reduced(tensor: Tensor, operation: Any) -> Tensor:
    result = tensor.detach().clone()
    if world_size() > 1:
        group.all_reduce(result, op=operation)
    return result


class _Gather(torch.autograd.Function):
    """All-gather whose backward sums the incoming gradients over ranks and keeps this rank's rows."""

    @staticmethod
    def forward(_ctx: Any, tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor) for _ in range(world_size())]
        group.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    @once_differentiable
    def backward(_ctx: Any, gradient: Tensor) -> Tensor:
        return all_reduce_sum(gradient).chunk(world_size())[rank()]
