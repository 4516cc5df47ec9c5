"""Frozen features of a source: one row per image, in step with the images' keys, each computed once and kept.

What every evaluation stands on. Images whose features are kept (features/cache.py) are not computed again; of the
others all ranks compute a share, and a kill costs the parts that were under way.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property

import numpy
import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from dinokit.core import device as devices
from dinokit.core import dist
from dinokit.core.device import Precision
from dinokit.core.messages import RunError, UserError, info, is_main
from dinokit.features.cache import Cache, folder_of
from dinokit.features.embedding import Read, square
from dinokit.features.parts import Kept, Known, Look, Part, Work
from dinokit.features.pipeline import batch_size, compute, limit
from dinokit.images.transforms import Transform
from dinokit.models.classifier import Reading
from dinokit.models.features import Backbone
from dinokit.sources.source import Source, Unusable

PART = 8  # batches: what a kill costs
SAID = 60.0  # seconds of work after which its rate is worth a line

_keeps: ContextVar[bool] = ContextVar("keeps", default=True)


@dataclass(frozen=True, kw_only=True)
class Embeddings:
    """Features of the readable images of a source; row i of every field belongs to the same image."""

    rows: Cache  # by the digests
    indices: Int64[numpy.ndarray, " image"]  # place of each row in the source
    keys: tuple[str, ...]
    labels: Int64[numpy.ndarray, " image"] | None
    classes: tuple[str, ...]
    domains: numpy.ndarray | None
    digests: tuple[bytes, ...]  # of the pixels that the backbone has seen: equal ones, equal pictures
    bad: tuple[Unusable, ...]

    @cached_property
    def vectors(self) -> Shaped[numpy.ndarray, "image *row"]:
        """All rows, in memory."""
        return self.rows.take(self.digests)

    def take(self, some: Int64[numpy.ndarray, " chosen"]) -> Shaped[numpy.ndarray, "chosen *row"]:
        """Return a copy of some rows, read from the disk: of what is too large to be held."""
        return self.rows.take([self.digests[place] for place in some.tolist()])


@contextmanager
def forgotten() -> Iterator[None]:
    """Keep no features of what is extracted in the body, as of a network that still learns; the ranks share nothing."""
    token = _keeps.set(False)
    try:
        yield
    finally:
        _keeps.reset(token)


def sharers() -> tuple[int, int]:
    """Return how many ranks share the images, and which of them this is; one where features are forgotten."""
    return (dist.world_size(), dist.rank()) if _keeps.get() else (1, 0)


def extract(
    backbone: Backbone,
    source: Source,
    *,
    reading: Read | None = None,
    transform: Transform | None = None,
    batch: int | None = None,
    device: torch.device | str | None = None,
    workers: int | None = None,
    precision: Precision = "fp32",
) -> Embeddings:
    """Compute the frozen features of all images of a source, in its order; all ranks must call together.

    Images of equal size and type are computed together; equal images are computed once, so that their rows are equal to
    the bit. An image that cannot be read is left out of every field and listed in `bad`.

    Args:
        reading: what is read of the network: a frozen dataclass; None: the CLS token after the final norm.
        transform: how an image is brought to it: a frozen dataclass; None: the centre square.
        batch: images in one forward pass; None: what suits the device.
        device: where to compute; the backbone is moved there. None: where the backbone is.
        workers: threads that read and resize; 0 reads in one; None: what suits the device.
        precision: of the matrix products; "auto" is bf16 where that is faster (`core/device`), and then the lowest
            cosine to float32 among the first images is said.

    Raises:
        UserError: if no image is readable.
        RunError: if a feature is not finite.
    """
    device = torch.device(device) if device is not None else backbone.device
    was_training = backbone.to(device).training
    backbone.eval()
    reading, transform = reading or Reading(), transform or square(backbone)
    precision = devices.settled(device, precision, dim=backbone.dim)
    keeps = _keeps.get() and any(True for _ in backbone.parameters())  # pixels are quicker to read than to keep
    rows = Cache(folder_of(backbone, reading, transform, precision) if keeps else None)
    found = dict[int, bytes | Unusable]()  # by index: the pixels that the backbone has seen

    def save(kept: Kept) -> None:
        looks = dict(zip(kept.part.indices.tolist(), kept.looks, strict=True))
        new = [look for look in looks.values() if isinstance(look, Look) and look.file not in rows.files]
        if new:
            rows.add([look.file for look in new], [look.pixels for look in new], kept.rows)
        for index, look in looks.items():
            found[index] = look.pixels if isinstance(look, Look) else look

    work = Work(
        backbone=backbone,
        source=source,
        read=reading,
        transform=transform,
        precision=precision,
        batch_size=batch or batch_size(device),
        finished=_plain,
        save=save,
        known=Known(files=dict(rows.files), pixels=set(rows.rows)),
    )
    ranks, rank = sharers() if keeps else (1, 0)
    parts = _parts(len(source), PART * work.batch_size)[rank::ranks]
    try:
        pace = compute(work, parts, workers=devices.readers(device) if workers is None else workers)
    finally:
        backbone.train(was_training)
    if pace.seconds > SAID and is_main():
        info(limit([pace]))
    if ranks > 1:
        dist.barrier()
        rows.refresh()
        found = dict(each for share in dist.gather_lists([list(found.items())]) for each in share)
    return _assembled(source, rows, [found[index] for index in range(len(source))])


def _parts(images: int, size: int) -> list[Part]:
    return [Part(first, numpy.arange(first, min(first + size, images))) for first in range(0, images, size)]


def _plain(vectors: Tensor) -> Shaped[numpy.ndarray, "image *row"]:
    return vectors.numpy()


def _assembled(source: Source, rows: Cache, found: list[bytes | Unusable]) -> Embeddings:
    bad = tuple(each for each in found if isinstance(each, Unusable))
    digests = {index: each for index, each in enumerate(found) if isinstance(each, bytes)}
    if not digests:
        first = f"; the first: {bad[0].key}: {bad[0].reason}" if bad else ""
        raise UserError(f"expected images in {source.name}, got none that can be read{first}")
    if not rows.rows.keys() >= set(digests.values()):
        raise RunError("the ranks do not see each other's features; set DINOKIT_CACHE to a folder that all can read")
    indices = numpy.array(list(digests), dtype=numpy.int64)
    return Embeddings(
        rows=rows,
        indices=indices,
        keys=tuple(source.key(index) for index in digests),
        labels=None if source.labels is None else source.labels[indices],
        classes=tuple(source.classes),
        domains=None if source.domains is None else source.domains[indices],
        digests=tuple(digests.values()),
        bad=bad,
    )
