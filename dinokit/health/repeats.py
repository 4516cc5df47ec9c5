"""Whether the loader gives the same again: the same crops, or the same images sooner than their order allows.

Crops are told apart by a sum over some of their pixels, images by their index in the source. A rank remembers those of
the last few steps; when it is asked, all ranks compare, so that two ranks that are given the same are found too.
"""

from collections import deque
from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Int64
from torch import Tensor

from dinokit.core import dist
from dinokit.views.loader import Batch

RECENT = 8  # steps to remember: a loader that starts over, or a circle of a few batches
_PIXELS = 1024  # of a crop, about


@final
class Repeats:
    """What the last steps were made of.

    Args:
        images: in the source; None where images are not seen equally often (a mixture).
        batch: images per step, over all ranks.
    """

    def __init__(self, *, images: int | None, batch: int, device: torch.device) -> None:
        # so few steps that of a source in random order at most a quarter should return, also where a pass ends
        self.steps_of_images = min(RECENT, (images or 0) // (4 * batch))
        self.device = device  # where collectives want their tensors
        self._steps: deque[Int64[Tensor, "2 image"]] = deque(maxlen=RECENT + 1)

    def add(self, micro_batches: Sequence[Batch]) -> None:
        """Remember a step's images and crops."""
        indices = torch.cat([torch.from_numpy(batch.indices) for batch in micro_batches])
        crops = [batch.views.global_crops[0].flatten(1) for batch in micro_batches]  # each [image, pixel]
        some = torch.cat([each[:, :: max(1, each.shape[1] // _PIXELS)].double() for each in crops])
        weights = torch.arange(1, some.shape[1] + 1, dtype=torch.float64).sqrt()  # so that order counts
        sums = (some * weights).sum(dim=1)
        self._steps.append(torch.stack([indices, sums.view(torch.int64)]))  # told apart by their bits

    def values(self) -> dict[str, float]:
        """Return the share of the newest step's crops and images that were given before; all ranks must call."""
        steps = torch.stack(list(self._steps)).to(self.device)  # [step, 2, image]
        steps = dist.all_gather(steps.permute(2, 0, 1).contiguous()).cpu()  # [everyone, step, 2]
        found = {"repeated_crops": _share(steps[:, :, 1])}
        if self.steps_of_images:
            found["repeated_images"] = _share(steps[:, -1 - self.steps_of_images :, 0])
        return found


def _share(marks: Int64[Tensor, "image step"]) -> float:
    """Return the share of the last step's marks that occur in an earlier step, or earlier in the last."""
    newest = marks[:, -1].contiguous()
    earlier = torch.isin(newest, marks[:, :-1].contiguous())
    _, kind = torch.unique(newest, return_inverse=True)
    order = kind.argsort(stable=True)
    again = torch.zeros_like(earlier)
    again[order[1:]] = kind[order[1:]] == kind[order[:-1]]
    return float((earlier | again).double().mean())
