"""A source's frozen features on disk, as a pool that curation reads (curation/pool.py), each image computed once.

The images are cut into parts, runs of the source's order. A part is computed by one rank, whichever; it and its batches
are the same for any number of ranks with as many threads each. A start computes what is in no part: after a kill the
parts that are missing, later the images that were added. Reading, the network and writing have threads of their own.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Literal

import numpy
import torch
from jaxtyping import Float, Float16, Float64
from torch import Tensor

from dinokit.checkpoints.load import called, load
from dinokit.core import device as devices
from dinokit.core import dist
from dinokit.core.device import Precision
from dinokit.core.files import check_same, check_writable, digest_of_model, only_owner, read_json, utf8
from dinokit.core.messages import RunError, UserError, info, is_main, library, reason, warn
from dinokit.curation.pool import Pool
from dinokit.curation.stored import EXTRA, STAMP, abouts, begin, finish, keys_of, rows_of, settled, write_part
from dinokit.features.embedding import Read, batches, read, square, unit
from dinokit.features.parts import Kept, Look, Part, Work
from dinokit.features.pipeline import Pace, batch_size, compute, limit
from dinokit.images.intensity import AnyImage
from dinokit.models.classifier import Reading
from dinokit.models.features import Backbone
from dinokit.models.gem import WithGem
from dinokit.sources.selection import hashed
from dinokit.sources.source import Source, Unusable, absolute, open_source

Feature = Literal["cls", "cls+patches", "cls+gem"]
POWER = 4.0  # of GeM, as DINO describes images for Copydays
READINGS: dict[str, Read] = {
    "cls": Reading(),
    "cls+patches": Reading(mean_patch=True),
    "cls+gem": WithGem(POWER),
}
GRAY, TWIN = "gray", "twin"  # flags: all channels are equal; the network sees what it saw in an earlier row of the part
SMALLEST, LARGEST, PARTS = 1 << 10, 1 << 16, 256  # images of a part, and how many parts are wanted


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
        feature: the CLS token, or CLS and the mean of the patches, or their generalised mean (models/gem), one after
            the other; of length 1 as a whole.
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
        "precision": settled(out, precision, device, dim=backbone.dim),
        "data": data,
        "split": split,
        "part": part or part_size(len(source)),
    }
    backbone = backbone.to(device).eval()
    with _owned(out, stamp) if is_main() else nullcontext():
        dist.barrier()
        precision = read_json(out / STAMP)["precision"]  # of all ranks
        work = work_of(backbone, source, out, split=split, feature=feature, precision=precision, batch=batch)
        return _completed(work, out, workers=devices.readers(device) if workers is None else workers)


def work_of(
    backbone: Backbone,
    source: Source,
    out: Path,
    *,
    split: str | None = None,
    feature: Feature = "cls",
    precision: Precision = "fp32",
    batch: int | None = None,
) -> Work:
    """Return what the parts of a pool have in common."""
    return Work(
        backbone=backbone,
        source=source,
        read=READINGS[feature],
        transform=square(backbone),
        precision=precision,
        batch_size=batch or batch_size(backbone.device),
        finished=_halved,
        save=partial(_write, out, split),
    )


def check_outside(out: Path, data: str, *, instead: str = "give --out a folder elsewhere") -> None:
    """Refuse a folder among the images: the next start would take its arrays for some of them.

    Args:
        instead: what to do.

    Raises:
        UserError: if it is one.
    """
    if Path(data).is_dir() and out.resolve().is_relative_to(Path(data).resolve()):
        raise UserError(f"{out} lies among the images of {data}; {instead}")


def _seen(backbone: Backbone, model: str | Path, heads: int | None, feature: Feature) -> dict[str, Any]:
    """Return what a stamp says of the model: what it makes of an image, and how to load it from any folder."""
    return {
        "model": called(model),
        "heads": heads,
        "weights": digest_of_model(backbone),
        "feature": feature,
        "dim": backbone.dim * (1 + (feature != "cls")),
        "pixels": asdict(backbone.pixels),
    }


def _halved(vectors: Float[Tensor, "image dim"]) -> Float16[numpy.ndarray, "image dim"]:
    return unit(vectors).numpy().astype(numpy.float16)


def _write(out: Path, split: str | None, kept: Kept) -> None:
    """Write a part with its table."""
    source, indices = kept.work.source, kept.part.indices.tolist()
    found = [(place, look) for place, look in enumerate(kept.looks) if isinstance(look, Look)]
    rows, firsts = [indices[place] for place, _ in found], dict[bytes, int]()
    labels = [-1] * len(rows) if source.labels is None else source.labels[rows].tolist()
    lines = {
        "row": rows,
        "key": [source.key(row) for row in rows],
        "source": [utf8(absolute(source.name))] * len(rows),
        "split": [split] * len(rows),
        "width": [look.width for _, look in found],
        "height": [look.height for _, look in found],
        "bytes_digest": [look.bytes_digest for _, look in found],
        "flags": [
            [GRAY] * look.gray + [TWIN] * (firsts.setdefault(look.pixels, place) != place) for place, look in found
        ],
        "class": [source.classes[label] if label >= 0 else None for label in labels],
        "domain": [None] * len(rows) if source.domains is None else [str(each) for each in source.domains[rows]],
    }
    write_part(
        out,
        kept.part.number,
        numpy.stack([kept.rows[look.pixels] for _, look in found]) if found else numpy.empty((0, 1), numpy.float16),
        lines,
        fingerprint=source.fingerprint,
        unread=[look for look in kept.looks if isinstance(look, Unusable)],
    )


def _completed(work: Work, out: Path, *, workers: int) -> Pool | None:
    """Compute what is missing, on all ranks together; the first one returns the pool."""
    parts = missing(out, work.source)
    dist.barrier()  # nobody writes before all have looked
    try:
        pace = compute(work, parts[dist.rank() :: dist.world_size()], workers=workers)
    except OSError as error:
        said = f"cannot write to {out}: {reason(error)}"
        raise RunError(f"{said}; what was computed stays, the same command goes on") from error
    dist.barrier()
    paces = dist.gather_lists([pace])
    pool = _finished(work.source, out, paces) if is_main() else None
    dist.barrier()
    return pool


def embedder(
    pool: Pool, *, heads: int | None = None, device: torch.device | None = None
) -> Callable[[Sequence[AnyImage]], Float64[numpy.ndarray, "image dim"]]:
    """Return the model that a pool was embedded with, as a function from colour images to vectors; see `model_of`."""
    return partial(embedded, pool, model_of(pool, heads=heads, device=device))


def model_of(pool: Pool, *, heads: int | None = None, device: torch.device | None = None) -> Backbone:
    """Load the model that a pool was embedded with.

    Args:
        heads: of attention; None: those that it was embedded with.

    Raises:
        UserError: if the model is gone, has other weights by now, or does not see colour images.
    """
    backbone = load(str(pool.stamp["model"]), heads=pool.stamp.get("heads") if heads is None else heads)
    check_same({"weights": pool.stamp["weights"]}, {"weights": digest_of_model(backbone)}, place=pool.folder)
    return ready(pool, backbone, device=device)


def ready(pool: Pool, backbone: Backbone, *, device: torch.device | None = None) -> Backbone:
    """Make the model of a pool one that is asked.

    Raises:
        UserError: if it does not see colour images.
    """
    if backbone.channels not in (1, 3):  # one of gray images sees their luminance
        raise UserError(f"{pool.folder} was embedded by a model of images of {backbone.channels} channels, expected 3")
    backbone.name = str(pool.stamp["model"])
    return backbone.to(device or backbone.device).eval()


def embedded(pool: Pool, backbone: Backbone, images: Sequence[AnyImage]) -> Float64[numpy.ndarray, "image dim"]:
    """Return the vectors of images, of length 1, as the pool has those of its own.

    Args:
        backbone: the model of the pool.
    """
    vectors = numpy.empty((len(images), pool.vectors.dim))
    ready = ((place, square(backbone)(image)) for place, image in enumerate(images))
    for batch in batches(ready, batch_size(backbone.device)):
        sent = devices.sent([image for _, image in batch], backbone.device)
        found = read(backbone, sent, READINGS[pool.stamp["feature"]], precision=pool.stamp["precision"])
        vectors[[place for place, _ in batch]] = unit(found.cpu()).numpy()
    return vectors


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


def _finished(source: Source, out: Path, paces: Sequence[Pace]) -> Pool:
    """Complete the folder, and say how fast it was and what was the limit."""
    found = abouts(out)
    if not any(about.lines for about in found):
        bad = [each for about in found for each in about.unread]
        first = f"; the first: {bad[0].key}: {bad[0].reason}" if bad else ""
        raise UserError(f"expected images in {source.name}, got none that can be read{first}")
    finish(out)
    info(limit(paces) if any(pace.total for pace in paces) else f"nothing new in {source.name}")
    return Pool(out)
