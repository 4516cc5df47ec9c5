"""The mean of gradients over ranks; on one machine's CPU through memory that the ranks share.

Every rank has a region and writes its gradients there. Then each adds up its share of all regions, and writes the means
into all: a number is read and written twice, where a message over sockets copies it eight times (docs/log.md). A region
is a file without a name, so nothing is left behind, whatever ends a rank.
"""

import os
import secrets
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import accumulate
from typing import final

import torch
from torch import Tensor
from torch.nn import Parameter

from dinokit.core import dist

LINE = 16  # numbers to which the place of a gradient is rounded up: a line of the cache
TOKEN = 16  # bytes by which a region is known
PIECE = 1 << 16  # numbers to add up at a time, so that they stay in the cache


@final
class Averaging:
    """Replaces gradients by their means; those of one instance have always the same parameters."""

    def __init__(self) -> None:
        self._regions: Sequence[Tensor] | None = None  # of all ranks, in their order; empty where none can be shared

    def __call__(self, parameters: Iterable[Parameter]) -> None:
        """Replace every gradient by its mean over ranks; a rank without a gradient counts as zero. All must call."""
        if dist.world_size() == 1:
            return
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        ends = list(accumulate(-(-parameter.numel() // LINE) * LINE for parameter in trained))
        if self._regions is None:
            self._regions = _shared(trained, ends[-1] + len(trained))
        if not self._regions:
            dist.average_gradients(trained)
            return
        own = self._regions[dist.rank()]
        places = [
            own[end - -(-parameter.numel() // LINE) * LINE :][: parameter.numel()].view(parameter.shape)
            for parameter, end in zip(trained, ends, strict=True)
        ]
        for parameter, place in zip(trained, places, strict=True):
            if parameter.grad is None:
                place.zero_()
            else:
                place.copy_(parameter.grad)
        own[ends[-1] :] = torch.tensor([float(parameter.grad is not None) for parameter in trained])
        _meet()
        average(self._regions, dist.rank())
        _meet()
        for parameter, place, ranks in zip(trained, places, own[ends[-1] :].tolist(), strict=True):
            parameter.grad = place if ranks > 0 else None


def average(regions: Sequence[Tensor], rank: int) -> None:
    """Write the means of a rank's share of the numbers into the regions of all ranks."""
    world, length = len(regions), len(regions[0])
    share = -(-length // world // LINE) * LINE
    first = rank * share
    for start in range(first, min(first + share, length), PIECE):
        pieces = [region[start : min(start + PIECE, first + share)] for region in regions]
        mean = pieces[0] + pieces[1]
        for piece in pieces[2:]:
            mean += piece
        mean /= world
        for piece in pieces:
            piece.copy_(mean)


def _shared(trained: Sequence[Parameter], length: int) -> list[Tensor]:
    """Open a region of float32 numbers for every rank; none where they cannot share memory. All must call together."""
    usable = all(each.device.type == "cpu" and each.dtype == torch.float32 for each in trained)
    if not usable or not hasattr(os, "memfd_create") or dist.local_world_size() < dist.world_size():
        return []
    token = secrets.token_bytes(TOKEN)
    file = None
    try:
        with suppress(OSError):  # too many files, or no memory: then no rank finds the token
            file = os.memfd_create("dinokit")
            os.ftruncate(file, length * torch.float32.itemsize)
            os.pwrite(file, token, 0)
        places = dist.gather_lists([(f"/proc/{os.getpid()}/fd/{file}", token)])
        regions = [_opened(path, length, known) for path, known in places]
        # each has opened all before the first is closed
        complete = all(dist.gather_lists([None not in regions]))
    finally:
        if file is not None:
            os.close(file)
    return [region for region in regions if region is not None] if complete else []


def _opened(path: str, length: int, token: bytes) -> Tensor | None:
    """Map a rank's region, if it is the rank's: in another container its number means another process."""
    try:
        with open(path, "rb") as file:
            if file.read(len(token)) != token:
                return None
        return torch.from_file(path, shared=True, size=length, dtype=torch.float32)
    except (OSError, RuntimeError):
        return None


def _meet() -> None:
    dist.all_reduce(torch.zeros(1))
