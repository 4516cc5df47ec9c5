"""Collectives that are the identity without a process group, so that the same code runs on one process.

A rank is a process with torchrun's environment variables (RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE).
Gradients: only `all_gather` carries them. All ranks must call each collective together. Where ranks form teams,
`within` makes a team, or the ranks at one place of all teams, what "all ranks" means.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as group
from jaxtyping import Shaped
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import Parameter

T = TypeVar("T")

START = timedelta(minutes=30)  # for all ranks to be there, and for a slow one in a step
PATIENCE = timedelta(hours=6)  # of ranks that wait while rank 0 measures or writes

_waiting: Any = None  # the group whose members may wait for long; torch's own group is for the steps
_team: Any = None  # the ranks that are counted, see `within`; None: all


def join(**rendezvous: Any) -> None:
    """Become one of the ranks.

    Args:
        rendezvous: of torch.distributed.init_process_group; nothing under torchrun.
    """
    global _waiting
    group.init_process_group(timeout=START, **rendezvous)
    _waiting = group.new_group(backend="gloo", timeout=PATIENCE)


def leave() -> None:
    """Stop being a rank, if this process is one; a group that another rank has broken is left all the same."""
    global _waiting
    _waiting = None
    if is_active():
        with suppress(RuntimeError):
            group.destroy_process_group()


@dataclass(frozen=True)
class Team:
    """This rank's team, of several that are equally large."""

    number: int  # of the team, from 0
    count: int  # of teams
    members: Any  # the group of those in the team, in rank order
    peers: Any  # the group of those at this rank's place in each team, in the teams' order


def teams(count: int) -> Team:
    """Divide the ranks, in their order, into so many teams, equally large; all ranks must call together."""
    ranks = world_size()
    assert ranks % count == 0, (ranks, count)
    size = ranks // count
    # every rank must make every group, also those that it is not in
    members = [group.new_group(list(range(first, first + size)), timeout=START) for first in range(0, ranks, size)]
    peers = [group.new_group(list(range(place, ranks, size)), timeout=START) for place in range(size)]
    number, place = divmod(rank(), size)
    return Team(number, count, members[number], peers[place])


@contextmanager
def within(team: Any) -> Iterator[None]:
    """Let rank, world size and collectives be those of some ranks while the body runs; None: of all."""
    global _team
    outer, _team = _team, team
    try:
        yield
    finally:
        _team = outer


def is_active() -> bool:
    """Tell whether a process group exists."""
    return group.is_available() and group.is_initialized()


def rank() -> int:
    """Return this process's number, 0 without a process group."""
    return group.get_rank(_team) if is_active() else 0


def world_size() -> int:
    """Return the number of processes, 1 without a process group."""
    return group.get_world_size(_team) if is_active() else 1


def local_world_size() -> int:
    """Return the number of processes on this machine, by torchrun's LOCAL_WORLD_SIZE."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world_size()))


def all_reduce(tensor: Shaped[Tensor, "*shape"], *, largest: bool = False) -> Shaped[Tensor, "*shape"]:
    """Return the sum over all ranks, or the elementwise maximum, as a new tensor without gradient."""
    result = tensor.detach().clone(memory_format=torch.contiguous_format)  # as messages of GPUs must be
    if world_size() > 1:
        group.all_reduce(result, op=group.ReduceOp.MAX if largest else group.ReduceOp.SUM, group=_team)
    return result


def all_gather(tensor: Shaped[Tensor, "row *shape"]) -> Shaped[Tensor, "rows *shape"]:
    """Concatenate every rank's rows in rank order; the gradient of a row sums what all ranks say of it.

    Every rank must hold the same number of rows.
    """
    return tensor if world_size() == 1 else _Gather.apply(tensor)


def average_gradients(parameters: Iterable[Parameter]) -> None:
    """Replace every gradient by its mean over ranks, in one message; a rank without a gradient counts as zero."""
    if world_size() == 1:
        return
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
    present = gradients[0].new_tensor([float(p.grad is not None) for p in trained])
    message = torch.cat([gradient.flatten() for gradient in gradients] + [present])
    group.all_reduce(message, group=_team)
    message[: -len(trained)] /= world_size()
    parts = torch.split_with_sizes(message, [gradient.numel() for gradient in gradients] + [len(trained)])
    for parameter, gradient, mean, ranks in zip(trained, gradients, parts, parts[-1].tolist(), strict=False):
        parameter.grad = gradient.copy_(mean.view_as(gradient)) if ranks > 0 else None


def any_rank(*answers: bool) -> tuple[bool, ...]:
    """Answer each question with yes if any rank does; a rank may be hours late."""
    assert _team is None, "only all ranks can wait for each other"
    if world_size() == 1:
        return answers
    votes = torch.tensor(answers, dtype=torch.float32)
    group.all_reduce(votes, op=group.ReduceOp.MAX, group=_waiting)
    return tuple(bool(vote) for vote in votes)


def gather_lists(items: list[T]) -> list[T]:
    """Join the lists of all ranks, in rank order."""
    if world_size() == 1:
        return items
    lists: list[list[T]] = [[] for _ in range(world_size())]
    group.all_gather_object(lists, items, group=_team)
    return [item for each in lists for item in each]


def shared(own: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Join the tensors that ranks bring, each of which one rank brings, by name; all ranks must call together.

    Args:
        own: what this rank brings, perhaps nothing.
        device: where collectives want their tensors.
    """
    assert _team is None, "what is shared is sent by its rank among all"
    brought = gather_lists([(name, value.shape, value.dtype, rank()) for name, value in own.items()])
    everything: dict[str, Tensor] = {}
    for name, shape, dtype, sender in brought:
        mine = sender == rank()
        value = own[name].to(device).contiguous() if mine else torch.empty(shape, dtype=dtype, device=device)
        if world_size() > 1:
            group.broadcast(value, src=sender)
        everything[name] = value
    return everything


def is_shard(tensor: Tensor) -> bool:
    """Tell whether a tensor is a DTensor, of which this process holds some rows; asked so that none is imported."""
    return hasattr(tensor, "to_local")


def own_rows(tensor: Shaped[Tensor, "*shape"]) -> Tensor:
    """Return this rank's rows of a sharded tensor, sharing memory; any other tensor as it is."""
    rows: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return rows


def fill(tensor: Shaped[Tensor, "*shape"], whole: Shaped[Tensor, "*shape"]) -> None:
    """Copy a whole tensor into one that may be sharded; nothing is sent."""
    if is_shard(tensor) and world_size() > 1:
        parts = whole.chunk(world_size())  # fewer than ranks if there are fewer rows
        whole = parts[rank()] if rank() < len(parts) else whole[:0]
    own_rows(tensor).copy_(whole)


def barrier() -> None:
    """Wait for all ranks, hours if need be."""
    any_rank(True)


class _Gather(torch.autograd.Function):
    """All-gather whose backward sums the incoming gradients over ranks and keeps this rank's rows."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        ctx.team, tensor = _team, tensor.contiguous()
        parts = [torch.empty_like(tensor) for _ in range(world_size())]
        group.all_gather(parts, tensor, group=_team)
        return torch.cat(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        with within(ctx.team):
            return all_reduce(gradient).chunk(world_size())[rank()]
