"""Memory that the ranks of one machine share: a region of each, which all may read and write.

A region is a file without a name, so nothing is left behind, whatever ends a rank. Who has written tells the others by
`met`; what a message over sockets copies eight times is copied twice.
"""

import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, final

import torch
import torch.distributed as group
from torch import Tensor
from torch.distributed import ReduceOp

from dinokit.core import dist

LINE = 64  # bytes of a line of the cache: where regions, their halves and what lies in them begin
TOKEN = 16  # bytes by which a region is known


def shared(size: int) -> list[Tensor]:
    """Open a region of so many bytes for every rank, in rank order; none if they cannot share memory.

    All ranks must call together.
    """
    if not hasattr(os, "memfd_create") or dist.local_world_size() < dist.world_size():
        return []
    token = secrets.token_bytes(TOKEN)
    size = max(size, TOKEN)
    file = None
    try:
        with suppress(OSError):  # too many files, or no memory: then no rank finds the token
            file = os.memfd_create("dinokit")
            os.ftruncate(file, size)
            os.pwrite(file, token, 0)
        places = dist.gather_lists([(f"/proc/{os.getpid()}/fd/{file}", token)])
        regions = [_opened(path, size, known) for path, known in places]
        complete = all(dist.gather_lists([None not in regions]))  # before the first of them is closed
    finally:
        if file is not None:
            os.close(file)
    return [region for region in regions if region is not None] if complete else []


def _opened(path: str, size: int, token: bytes) -> Tensor | None:
    """Map a rank's region, if it is the rank's: in another container its number means another process."""
    try:
        with open(path, "rb") as file:
            if file.read(len(token)) != token:
                return None
        return torch.from_file(path, shared=True, size=size, dtype=torch.uint8)
    except (OSError, RuntimeError):
        return None


def met(team: Any = None) -> None:
    """Wait until all ranks have come here, and with them what they have written.

    Args:
        team: group of torch.distributed; None: the ranks that core.dist counts.
    """
    if team is None:
        dist.all_reduce(torch.zeros(1))
    else:
        group.all_reduce(torch.zeros(1), group=team)


def _room(size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return room for a message."""
    return torch.empty(*size, dtype=dtype, device=device)


@final
class Gathering:
    """All-gather of FSDP2 through shared memory (torch.distributed.fsdp: set_custom_all_gather)."""

    allocate = staticmethod(_room)

    def __init__(self, halves: "Halves") -> None:
        self.halves = halves

    # all is done when it returns, whatever `async_op` says
    def __call__(self, output_tensor: Tensor, input_tensor: Tensor, group: Any, async_op: bool = False) -> None:  # noqa: ARG002
        """Fill the output with all inputs, in rank order; this rank's is there already."""
        own, parts = group.rank(), output_tensor.chunk(group.size())
        regions = self.halves.following(input_tensor)
        regions[own].copy_(input_tensor)
        met(group)
        for rank, part in enumerate(parts):
            if rank != own or part.data_ptr() != input_tensor.data_ptr():
                part.copy_(regions[rank])


@final
class Scattering:
    """Reduce-scatter of FSDP2 through shared memory (torch.distributed.fsdp: set_custom_reduce_scatter)."""

    allocate = staticmethod(_room)

    def __init__(self, halves: "Halves") -> None:
        self.halves = halves

    def __call__(self, output_tensor: Tensor, input_tensor: Tensor, group: Any, op: Any) -> None:
        """Fill the output with the mean of all ranks' parts for this rank, added in rank order."""
        assert op == ReduceOp.AVG, op
        own, parts = group.rank(), input_tensor.chunk(group.size())
        regions = [region.chunk(group.size()) for region in self.halves.following(input_tensor)]
        for rank, part in enumerate(parts):
            if rank != own:
                regions[own][rank].copy_(part)
        met(group)
        output_tensor.copy_(parts[own] if own == 0 else regions[0][own])
        for rank in range(1, group.size()):
            output_tensor += parts[own] if rank == own else regions[rank][own]
        output_tensor /= group.size()


@final
class Halves:
    """Regions in two halves that messages use in turn: who meets for one has read what the one before it left."""

    def __init__(self, regions: Sequence[Tensor]) -> None:
        self.regions = regions
        self.half = 0

    def following(self, like: Tensor) -> list[Tensor]:
        """Return a place for such a tensor in the next half of every region."""
        half = len(self.regions[0]) // 2
        self.half = half - self.half
        return [region[self.half :][: like.nbytes].view(like.dtype) for region in self.regions]


def halves(size: int) -> Halves | None:
    """Open regions for messages of at most so many bytes; all ranks must call together."""
    regions = shared(2 * -(-size // LINE) * LINE)
    return Halves(regions) if regions else None
