"""Dense features of the images of a source on disk (dense/arrays.py), each image computed once.

Images are seen one by one, so that their arrays depend on nothing else: neither ranks nor kills change a byte (with as
many threads). A rank takes every so many-th part; while an image is computed the next one is read.
"""

import os
import shutil
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch

from dinokit.checkpoints.load import called, load
from dinokit.core import dist
from dinokit.core.device import Precision
from dinokit.core.files import check_writable, digest_of_model, only_owner, read_json, utf8
from dinokit.core.messages import RunError, UserError, info, is_main, library, progress, reason
from dinokit.curation.stored import BAD, EXTRA, begin, settled, stem
from dinokit.dense.arrays import STAMP, Arrays, add_line, finish, lines_of, name_of, write_part
from dinokit.dense.pixels import PixelFeatures, Sampling, sampled, width_of
from dinokit.features.embed import check_outside
from dinokit.features.pipeline import beside
from dinokit.images.decode import upright_size
from dinokit.models.features import Backbone
from dinokit.sources.source import Source, Unusable, absolute, open_source, thinned

SMALLEST, LARGEST, PARTS = 16, 4096, 256  # images of a part, and how many parts are wanted
MEASURED = 16  # images that say what all take on the disk
HEADER = 128  # bytes before the numbers of a .npy
BLOCK = 4096  # bytes that the smallest file takes, where the system does not say
_Look = tuple[PixelFeatures, dict[str, Any]]  # features of an image, yet to be computed, and what is known of it
# of the stamp, to go on
SAME = ("weights", "dim", "sampling", "precision", "pixels", "data", "split", "source")


def embed_dense(
    model: str | Path,
    data: str,
    out: str | Path,
    *,
    sampling: Sampling,
    split: str | None = None,
    heads: int | None = None,
    device: torch.device | None = None,
    precision: Precision = "auto",
    part: int | None = None,
) -> Arrays | None:
    """Write the dense features of the images of a source that are not there yet; all ranks must call together.

    Args:
        model: whatever `load` takes.
        data: whatever `open_source` takes.
        heads: of attention, see `load`.
        part: images per part; None: by their number. Of a folder that has begun the first start has decided.

    Returns:
        What the folder holds; None in ranks other than the first.

    Raises:
        UserError: if `out` holds something else, the disk is too small, or no image can be read.
        RunError: if a feature is not finite or the disk is full; what was computed stays.
    """
    library("pyarrow.parquet", extra=EXTRA)
    out, data = Path(out), absolute(data)
    check_outside(out, data)
    backbone = load(str(model), heads=heads)
    sampling.check(backbone)
    source = open_source(data, split=split, channels=backbone.channels, white=backbone.pixels.white)
    device = device or backbone.device
    work = _Work(
        backbone=backbone.to(device).eval(),
        source=source,
        out=out,
        sampling=sampling,
        split=split,
        precision=settled(out, precision, device, dim=backbone.dim, name=STAMP),
        dim=width_of(backbone),
    )
    stamp = {
        "model": called(model),
        "heads": heads,
        "weights": digest_of_model(backbone),
        "dim": work.dim,
        "sampling": asdict(sampling),
        "precision": work.precision,
        "pixels": asdict(backbone.pixels),
        "data": data,
        "split": split,
        "source": source.fingerprint,
        "part": part or part_size(len(source)),
    }
    with _owned(work, stamp) if is_main() else nullcontext():
        dist.barrier()
        kept = read_json(out / STAMP)  # of all ranks
        return _completed(replace(work, precision=kept["precision"]), size=int(kept["part"]))


def part_size(images: int) -> int:
    """Return how many images a part holds: a part is what one rank takes."""
    return min(max(SMALLEST, 1 << max(images // PARTS - 1, 0).bit_length()), LARGEST)


@dataclass(frozen=True, kw_only=True)
class _Work:
    """What all images have in common."""

    backbone: Backbone
    source: Source
    out: Path
    sampling: Sampling
    split: str | None
    precision: Precision
    dim: int

    def look(self, index: int) -> _Look:
        """Read an image, or raise BadImage."""
        source, enough = self.source, self.sampling.size
        found = source.fetch(int(source.rows[index]))
        if isinstance(found, bytes):
            # guided by the image, all of it counts
            few = enough if self.sampling.upsample == "bilinear" else None
            image = source.pixels_of(index, found, min_side=few)
            (width, height), data = upright_size(found, image), found
        else:
            image, data = found, found.contiguous().numpy().tobytes()
            height, width = image.shape[1:]
        of = height, width
        features = sampled(self.backbone, image, self.sampling, dim=self.dim, of=of, precision=self.precision)
        label = -1 if source.labels is None else int(source.labels[index])
        return features, {
            "source": utf8(absolute(source.name)),
            "split": self.split,
            "width": width,
            "height": height,
            "bytes_digest": blake2b(data, digest_size=16).hexdigest(),
            "class": source.classes[label] if label >= 0 else None,
        }

    def each(
        self, indices: list[int]
    ) -> Generator[tuple[int, tuple[PixelFeatures, dict[str, Any]] | Unusable], None, None]:
        """Read images one after the other."""
        yield from self.source.each(self.look, indices, workers=0)


def _completed(work: _Work, *, size: int) -> Arrays | None:
    """Compute what is missing, on all ranks together; the first one returns what there is."""
    parts = range(-(-len(work.source) // size))
    todo = {number: missing(work.out, number, size=size, images=len(work.source)) for number in parts}
    dist.barrier()  # nobody writes before all have looked
    try:
        _compute(work, {number: todo[number] for number in parts[dist.rank() :: dist.world_size()]})
    except OSError as error:
        said = f"cannot write to {work.out}: {reason(error)}"
        raise RunError(f"{said}; what was computed stays, the same command goes on") from error
    dist.barrier()
    found = None
    if is_main():
        finish(work.out, parts)
        found = Arrays(work.out)
        if not len(found):
            raise UserError(f"expected images in {work.source.name}, got none that can be read; see {work.out / BAD}")
    dist.barrier()
    return found


def missing(out: Path, number: int, *, size: int, images: int) -> list[int] | None:
    """Return the images of a part that are to be computed; None: the part is whole, and so is its table."""
    there = {line["row"] for line in lines_of(out, number)}
    left = [index for index in range(number * size, min((number + 1) * size, images)) if index not in there]
    return left if left or not (out / f"{stem(number)}.parquet").exists() else None


def _compute(work: _Work, parts: Mapping[int, list[int] | None]) -> None:
    """Compute the images of some parts, and write the table of each when all are there."""
    wanted = [index for left in parts.values() for index in left or []]
    with closing(beside(work.each(wanted))) as found:
        looks = iter(progress(found, len(wanted)))
        for number, left in parts.items():
            for _ in left or []:
                index, look = next(looks)
                key = work.source.key(index)
                if isinstance(look, Unusable):
                    add_line(work.out, number, {"row": index, "key": utf8(key), "reason": look.reason})
                    continue
                features, told = look
                name = name_of(number, index)
                try:
                    digest = features.save(work.out / name)
                except RunError as error:
                    raise RunError(f"{key}: {error}") from error
                rows, columns, _ = features.shape
                line = {"row": index, "key": utf8(key), "file": name, "rows": rows, "columns": columns}
                add_line(work.out, number, line | {"digest": digest} | told)
            if left is not None:
                write_part(work.out, number)


@contextmanager
def _owned(work: _Work, stamp: Mapping[str, Any]) -> Iterator[None]:
    """Own the folder, which belongs to the stamp and has room for the rest, while the body runs."""
    if work.out.exists() and not work.out.is_dir():
        raise UserError(f"expected a folder for the features, got the file {work.out}; give --out a new folder")
    check_writable(work.out)
    with only_owner(work.out):
        begin(work.out, stamp, name=STAMP, same=SAME)
        for left in work.out.glob("part-*/.*.part"):  # of a process that was killed
            left.unlink()
        _check_room(work)
        yield


def _check_room(work: _Work) -> None:
    """Say what the features take, and refuse a disk that is too small: some images tell of all."""
    few = thinned(work.source, MEASURED)
    measured = replace(work, source=few)
    looks = (look for _, look in measured.each(list(range(len(few)))))
    block = os.statvfs(work.out).f_frsize if hasattr(os, "statvfs") else BLOCK

    def taken(octets: int) -> int:
        return -(-octets // block) * block  # of small images what files take is much more than what is in them

    sizes = [0 if isinstance(look, Unusable) else taken(HEADER + look[0].nbytes) for look in looks]
    wanted = sum(sizes) / max(len(sizes), 1) * len(work.source)
    wanted -= sum(taken(path.stat().st_size) for path in work.out.glob("part-*/*.npy"))
    free, about = shutil.disk_usage(work.out).free, "" if len(few) == len(work.source) else "about "
    if wanted > free:
        raise UserError(
            f"the features of {len(work.source):,} images take {about}{_size(int(wanted))} more in {work.out}, "
            f"{_size(free)} are free; give --out a larger disk, a larger --stride, or a smaller --size"
        )
    info(f"{len(work.source):,} images take {about}{_size(int(wanted))} more in {work.out}")


def _size(octets: int) -> str:
    return f"{octets / 1e9:,.1f} GB" if octets >= 1e9 else f"{max(octets, 0) / 1e6:,.3f} MB"
