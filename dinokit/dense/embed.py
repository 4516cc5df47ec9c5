"""A source's frozen features on disk, as a pool that curation reads (curation/pool.py), each image computed once.

The images are cut into parts, runs of the source's order. A part is computed by one rank, whichever; it and its batches
are the same for any number of ranks with as many threads each. A start computes what is in no part: after a kill the
parts that are missing, later the images that were added. Reading, the network and writing have threads of their own.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy
import torch
from jaxtyping import Float64

from dinokit.checkpoints.load import load
from dinokit.core import device as devices
from dinokit.core import dist
from dinokit.core.device import Precision
from dinokit.core.files import check_same, check_writable, digest_of_model, only_owner, read_json, utf8
from dinokit.core.messages import RunError, UserError, console, duration, info, is_main, library, progress, reason, warn
from dinokit.curation.pool import Pool
from dinokit.curation.stored import EXTRA, STAMP, abouts, begin, finish, keys_of, rows_of
from dinokit.dense.embedding import batches, encode, seen, unit
from dinokit.dense.parts import Batch, Feature, Part, Work, pooled
from dinokit.images.intensity import AnyImage
from dinokit.models.features import Backbone
from dinokit.sources import location
from dinokit.sources.selection import hashed
from dinokit.sources.source import Source, absolute, open_source

SMALLEST, LARGEST, PARTS = 1 << 10, 1 << 16, 256  # images of a part, and how many parts are wanted
_BATCH = {"cpu": 32}  # images; of more, a processor's cache holds nothing
_LARGE_BATCH = 256
_LINES = 10.0  # seconds between two lines on how far it is
_MUCH = 0.1  # of the time spent waiting for images makes them the limit
_COMPARED = 8  # images that are computed in float32 too, where bfloat16 is the default
_PENDING = 3  # batches of vectors on their way to the disk


def embed(
    model: str | Path,
    data: str,
    out: str | Path,
    *,
    split: str | None = None,
    feature: Feature = "cls",
    heads: int | None = None,
    device: torch.device | None = None,
    precision: Precision = "auto",
    batch: int | None = None,
    workers: int | None = None,
    part: int | None = None,
) -> Pool | None:
    """Embed what is not embedded yet of a source; all ranks must call together.

    Args:
        model: whatever `load` takes: a run folder, a checkpoint folder, a weights file, timm/NAME, ...
        data: whatever `open_source` takes.
        feature: the CLS token, or CLS and the mean of the patches, one after the other; of length 1 as a whole.
        heads: of attention, see `load`.
        batch: images in one forward pass; None: what suits the device.
        workers: threads that read; None: what suits the device.
        part: images per part; None: by their number. Of a pool that has begun the first start has decided.

    Returns:
        The pool; None in ranks other than the first.

    Raises:
        UserError: if `out` holds something else, or no image can be read.
        RunError: if a feature is not finite or the disk is full; what was computed stays.
    """
    library("pyarrow.parquet", extra=EXTRA)
    out, data = Path(out), absolute(data)
    check_outside(out, data)
    backbone = load(str(model), heads=heads)
    source = open_source(data, split=split, channels=backbone.channels, white=backbone.pixels.white)
    device = device or backbone.device
    stamp = _seen(backbone, model, heads, feature) | {
        "precision": "bf16" if devices.uses_bf16(device, precision) else "fp32",
        "data": data,
        "split": split,
        "part": part or part_size(len(source)),
    }
    backbone = backbone.to(device).eval()
    options: dict[str, Any] = {"feature": feature, "precision": precision, "batch_size": batch or batch_size(device)}
    work = Work(backbone=backbone, source=source, split=split, out=out, **options)
    with _owned(out, stamp) if is_main() else nullcontext():
        dist.barrier()
        return _completed(work, workers=devices.readers(device) if workers is None else workers)


def check_outside(out: Path, data: str) -> None:
    """Refuse a folder among the images: the next start would take its arrays for some of them.

    Raises:
        UserError: if it is one.
    """
    if Path(data).is_dir() and out.resolve().is_relative_to(Path(data).resolve()):
        raise UserError(f"{out} lies among the images of {data}; give --out a folder elsewhere")


def _seen(backbone: Backbone, model: str | Path, heads: int | None, feature: Feature) -> dict[str, Any]:
    """Return what a stamp says of the model: what it makes of an image, and how to load it from any folder."""
    is_path = os.path.exists(os.path.expanduser(model))
    return {
        "model": location.absolute(str(model)) if is_path else str(model),  # else it is published, or a peer's
        "heads": heads,
        "weights": digest_of_model(backbone),
        "feature": feature,
        "dim": backbone.dim * (2 if feature == "cls+patches" else 1),
        "pixels": asdict(backbone.pixels),
    }


def _completed(work: Work, *, workers: int) -> Pool | None:
    """Compute what is missing, on all ranks together; the first one returns the pool."""
    parts = missing(work.out, work.source)
    dist.barrier()  # nobody writes before all have looked
    try:
        pace = compute(work, parts[dist.rank() :: dist.world_size()], workers=workers)
    except OSError as error:
        said = f"cannot write to {work.out}: {reason(error)}"
        raise RunError(f"{said}; what was computed stays, the same command goes on") from error
    dist.barrier()
    paces = dist.gather_lists([pace])
    pool = _finished(work, paces) if is_main() else None
    dist.barrier()
    return pool


def embedder(
    pool: Pool, *, heads: int | None = None, device: torch.device | None = None
) -> Callable[[Sequence[AnyImage]], Float64[numpy.ndarray, "image dim"]]:
    """Return the model that a pool was embedded with, as a function from colour images to vectors of length 1.

    Args:
        heads: of attention; None: those that it was embedded with.

    Raises:
        UserError: if the model is gone, has other weights by now, or does not see colour images.
    """
    backbone = load(str(pool.stamp["model"]), heads=pool.stamp.get("heads") if heads is None else heads)
    check_same({"weights": pool.stamp["weights"]}, {"weights": digest_of_model(backbone)}, place=pool.folder)
    if backbone.channels not in (1, 3):  # one of gray images sees their luminance
        raise UserError(f"{pool.folder} was embedded by a model of images of {backbone.channels} channels, expected 3")
    backbone = backbone.to(device or backbone.device).eval()

    def embedded(images: Sequence[AnyImage]) -> Float64[numpy.ndarray, "image dim"]:
        vectors = numpy.empty((len(images), pool.vectors.dim))
        ready = ((place, seen(image, backbone)) for place, image in enumerate(images))
        for batch in batches(ready, batch_size(backbone.device)):
            features = encode(
                backbone,
                devices.sent([image for _, image in batch], backbone.device),
                precision=pool.stamp["precision"],
            )
            vectors[[place for place, _ in batch]] = unit(pooled(features, pool.stamp["feature"]).cpu()).numpy()
        return vectors

    return embedded


def batch_size(device: torch.device) -> int:
    """Return how many images suit a device in one forward pass."""
    return _BATCH.get(device.type, _LARGE_BATCH)


def part_size(images: int) -> int:
    """Return how many images a part holds: the folder of a billion is not to hold a million files."""
    return min(max(SMALLEST, 1 << max(images // PARTS - 1, 0).bit_length()), LARGEST)


def missing(out: Path, source: Source) -> list[Part]:
    """Return the parts that are not there yet: what is in no table, in the source's order, under the free numbers.

    As long as the source stays what it was, a number means the same images whichever parts are missing.
    """
    size, done = int(read_json(out / STAMP)["part"]), numpy.zeros(len(source), dtype=bool)
    whole = abouts(out)
    others = list[str]()
    for about in whole:
        if about.fingerprint == source.fingerprint:
            done[rows_of(out, about)] = True
        else:
            others += keys_of(out, about)
    if others:
        theirs, ours = hashed(utf8(source.key(index)) for index in range(len(source))), hashed(others)
        done |= numpy.isin(theirs, ours)
        gone = numpy.flatnonzero(~numpy.isin(ours, theirs))
        if len(gone):
            told = f"{len(gone):,} of the embedded images are gone, such as {others[int(gone[0])]}"
            warn(f"{source.name} shrank: {told}; their vectors stay")
    todo, taken = numpy.flatnonzero(~done), {about.number for about in whole}
    free = (number for number in count() if number not in taken)
    return [Part(next(free), todo[first : first + size]) for first in range(0, len(todo), size)]


@dataclass
class _Pace:
    """How fast a rank is, and how long its network has waited for images."""

    total: int  # images of this start
    done: int = 0
    waited: float = 0.0
    began: float = field(default_factory=time.monotonic)
    seconds: float = 0.0


def compute(work: Work, parts: Sequence[Part], *, workers: int) -> _Pace:
    """Compute some parts: one thread brings batches, this one drives the network, a third stores what comes out."""
    indices = numpy.concatenate([part.indices for part in parts]) if parts else numpy.empty(0, dtype=numpy.int64)
    pace, said, first, ended = _Pace(len(indices)), time.monotonic(), True, 0
    looks = work.source.each(work.look, map(int, indices), workers=workers)
    shown = iter(progress(looks, len(indices)))
    pending = deque[Future[float]]()
    with ThreadPoolExecutor(1) as behind, closing(_beside(work.batches(list(parts), shown))) as found:
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
                if first and is_main() and devices.uses_bf16(work.backbone.device, work.precision):
                    exact = work.vectors(batch.images[:_COMPARED], precision="fp32")
                    cosine = (unit(vectors[:_COMPARED]) * unit(exact)).sum(dim=-1).min().item()
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


def _beside(items: Generator[Batch, None, None]) -> Generator[Batch, None, None]:
    """Yield batches while another thread makes the next one."""
    with closing(items), ThreadPoolExecutor(1) as thread:
        item = thread.submit(next, items, None)
        while (found := item.result()) is not None:
            item = thread.submit(next, items, None)
            yield found


@contextmanager
def _owned(out: Path, stamp: Mapping[str, Any]) -> Iterator[None]:
    """Own the folder, which belongs to the stamp, while the body runs."""
    if out.exists() and not out.is_dir():
        raise UserError(f"expected a folder for the embeddings, got the file {out}; give --out a new folder")
    check_writable(out)
    with only_owner(out):
        begin(out, stamp)
        for left in out.glob(".*.part"):  # of a process that was killed
            left.unlink()
        for table in out.glob("part-*.parquet"):
            if not table.with_suffix(".npy").exists():  # damaged and deleted: the part is computed again
                table.unlink()
        yield


def _say(pace: _Pace, now: float) -> None:
    """Say how far it is, as far as one rank can tell of all."""
    ranks, rate = dist.world_size(), pace.done / (now - pace.began)
    if rate:
        left = duration((pace.total - pace.done) / rate)
        info(f"{pace.done * ranks:,} of {pace.total * ranks:,} images · {rate * ranks:.1f} img/s · {left} left")


def _finished(work: Work, paces: Sequence[_Pace]) -> Pool:
    """Complete the folder, and say how fast it was and what was the limit."""
    found = abouts(work.out)
    if not any(about.lines for about in found):
        bad = [each for about in found for each in about.unread]
        first = f"; the first: {bad[0].key}: {bad[0].reason}" if bad else ""
        raise UserError(f"expected images in {work.source.name}, got none that can be read{first}")
    finish(work.out)
    pool = Pool(work.out)
    images, seconds = sum(pace.total for pace in paces), max(pace.seconds for pace in paces)
    if not images:
        info(f"nothing new in {work.source.name}")
        return pool
    share = sum(pace.waited for pace in paces) / sum(pace.seconds for pace in paces)
    limit = "reading and decoding were" if share > _MUCH else "the network was"
    rate = f"{images:,} images in {duration(seconds)}, {images / seconds:.1f} img/s"
    info(f"{rate}: {limit} the limit (the network waited for images {100 * share:.0f} % of the time)")
    return pool
