"""Parts of a source through a network, at the network's own pace.

One thread brings batches, this one drives the network, a third stores what comes out; how long the network waited for
images says which of them is the limit.
"""

import time
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, field
from typing import TypeVar

import numpy
import torch

from dinokit.core import device as devices
from dinokit.core import dist
from dinokit.core.messages import console, duration, info, is_main, progress
from dinokit.features.embedding import unit
from dinokit.features.parts import Part, Work
from dinokit.models.packed import packed

T = TypeVar("T")
_BATCH = {"cpu": 32}  # images; of more, a processor's cache holds nothing
_LARGE_BATCH = 256
_LINES = 10.0  # seconds between two lines on how far it is
_MUCH = 0.1  # of the time spent waiting for images makes them the limit
_COMPARED = 8  # images that are computed in float32 too, where bfloat16 is the default
_PENDING = 3  # batches of vectors on their way to the disk


@dataclass
class Pace:
    """How fast a rank is, and how long its network has waited for images."""

    total: int  # images of this start
    done: int = 0
    waited: float = 0.0
    began: float = field(default_factory=time.monotonic)
    seconds: float = 0.0


def batch_size(device: torch.device) -> int:
    """Return how many images suit a device in one forward pass."""
    return _BATCH.get(device.type, _LARGE_BATCH)


def compute(work: Work, parts: Sequence[Part], *, workers: int) -> Pace:
    """Compute some parts, and save each when it is whole.

    Args:
        workers: threads that read; 0 reads in the one that brings batches.
    """
    indices = numpy.concatenate([part.indices for part in parts]) if parts else numpy.empty(0, dtype=numpy.int64)
    pace, said, first, ended = Pace(len(indices)), time.monotonic(), True, 0
    looks = work.source.each(work.look, map(int, indices), workers=workers)
    shown = iter(progress(looks, len(indices)))
    pending = deque[Future[float]]()
    made = beside(work.batches(list(parts), shown))
    with packed(work.backbone), devices.threads(1) as behind, closing(made) as found:
        asked = idle = time.monotonic()  # since when the network has nothing to do
        for batch in found:
            now = time.monotonic()
            while pending and (pending[0].done() or len(pending) > _PENDING):  # in their order: the first error counts
                idle = pending.popleft().result()
            if not pending:
                pace.waited += now - max(asked, idle)
            if batch.images is None:
                pending.append(behind.submit(batch.part.write))
                ended += len(batch.part.part.indices)
                pace.done = ended
            else:
                vectors = work.vectors(batch.images)
                pending.append(behind.submit(batch.part.store, batch.places, vectors))
                pace.done = ended + max(batch.places)
                if first and is_main() and devices.settled(work.backbone.device, work.precision) == "bf16":
                    exact = work.vectors(batch.images[:_COMPARED], precision="fp32").flatten(1)
                    cosine = (unit(vectors[:_COMPARED].flatten(1)) * unit(exact)).sum(dim=-1).min().item()
                    info(f"bf16 matrix products: cosine to fp32 at least {cosine:.6f} in the first {len(exact)} images")
                first = False
            if now - said > _LINES and pace.done < pace.total and not console.is_terminal:
                said = now
                _say(pace, now)
            asked = time.monotonic()
        for each in pending:
            each.result()
    pace.seconds = time.monotonic() - pace.began
    return pace


def limit(paces: Sequence[Pace]) -> str:
    """Say how fast the ranks were together, and what was the limit."""
    images, seconds = sum(pace.total for pace in paces), max(pace.seconds for pace in paces)
    share = sum(pace.waited for pace in paces) / sum(pace.seconds for pace in paces)
    what = "reading and decoding were" if share > _MUCH else "the network was"
    rate = f"{images:,} images in {duration(seconds)}, {images / seconds:.1f} img/s"
    return f"{rate}: {what} the limit (the network waited for images {100 * share:.0f} % of the time)"


def beside(items: Generator[T, None, None]) -> Generator[T, None, None]:
    """Yield items while another thread makes the next one."""
    with closing(items), devices.threads(1) as thread:
        item = thread.submit(next, items, None)
        while (found := item.result()) is not None:
            item = thread.submit(next, items, None)
            yield found


def _say(pace: Pace, now: float) -> None:
    """Say how far it is, as far as one rank can tell of all."""
    ranks, rate = dist.world_size(), pace.done / (now - pace.began)
    if rate:
        left = duration((pace.total - pace.done) / rate)
        info(f"{pace.done * ranks:,} of {pace.total * ranks:,} images · {rate * ranks:.1f} img/s · {left} left")
