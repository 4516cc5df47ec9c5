"""The mean of gradients over ranks; on one machine's CPU through memory that the ranks share.

Every rank has a region and writes its gradients there. Then each adds up its share of all regions, and writes the means
into all (docs/log.md: a third of the time that a message over sockets takes).
"""

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import final

import torch
from torch import Tensor
from torch.nn import Parameter

from dinokit.core import dist
from dinokit.core.regions import LINE, met, shared

WHOLE = LINE // torch.float32.itemsize  # numbers to which the place of a gradient is rounded up
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
        ends = list(accumulate(-(-parameter.numel() // WHOLE) * WHOLE for parameter in trained))
        if self._regions is None:
            self._regions = _shared(trained, ends[-1] + len(trained))
        if not self._regions:
            dist.average_gradients(trained)
            return
        own = self._regions[dist.rank()]
        places = [
            own[end - -(-parameter.numel() // WHOLE) * WHOLE :][: parameter.numel()].view(parameter.shape)
            for parameter, end in zip(trained, ends, strict=True)
        ]
        for parameter, place in zip(trained, places, strict=True):
            if parameter.grad is None:
                place.zero_()
            else:
                place.copy_(parameter.grad)
        own[ends[-1] :] = torch.tensor([float(parameter.grad is not None) for parameter in trained])
        met()
        average(self._regions, dist.rank())
        met()
        for parameter, place, ranks in zip(trained, places, own[ends[-1] :].tolist(), strict=True):
            parameter.grad = place if ranks > 0 else None


def average(regions: Sequence[Tensor], rank: int) -> None:
    """Write the means of a rank's share of the numbers into the regions of all ranks."""
    world, length = len(regions), len(regions[0])
    share = -(-length // world // WHOLE) * WHOLE
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
    if not all(each.device.type == "cpu" and each.dtype == torch.float32 for each in trained):
        return []
    return [region.view(torch.float32) for region in shared(length * torch.float32.itemsize)]
