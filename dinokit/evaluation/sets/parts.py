"""What was found on test images, kept a part of them at a time, so that a measuring that is stopped goes on.

    FOLDER/DIGEST/000300.npz    boxes, classes and scores of the images from the 300th on, one behind the other, and how
                                many there are on each; the digest is of the weights, the images, how they are seen, and
                                the code

With eight sizes and mirrors the 5,000 images of COCO take hours. What was measured to the end is kept elsewhere, so
that the folder is gone then.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from zipfile import BadZipFile

import numpy
import torch

from dinokit.annotations.boxes import Boxed
from dinokit.core.files import digest_of_files, write_atomic
from dinokit.core.messages import info, progress
from dinokit.dense import detection
from dinokit.dense.detection import Detections
from dinokit.features.cache import versions
from dinokit.images import intensity

PART = 100  # images


def found(
    look: Callable[[intensity.Image], Detections],
    test: Boxed,
    indices: Sequence[int],
    *,
    folder: Path | None,
    of: Sequence[str],
) -> list[Detections]:
    """Find what there is on images of a split; what a folder has of them is read.

    Args:
        look: an image -> what is on it.
        folder: keeps parts; None: nothing.
        of: what else the answers depend on.
    """
    place = None if folder is None else folder / _digest(test, indices, of)
    parts = {start: indices[start : start + PART] for start in range(0, len(indices), PART)}
    known = {start: part for start in parts if place and (part := _read(_file(place, start)))}
    if known:
        info(f"continuing after {sum(map(len, known.values())):,} of {len(indices):,} images")
    left = [(start, index) for start, some in parts.items() if start not in known for index in some]
    for start, index in progress(left, len(left)):
        known.setdefault(start, []).append(look(test.read(index)))
        if place is not None and len(known[start]) == len(parts[start]):
            _write(_file(place, start), known[start])
    return [one for start in parts for one in known[start]]


def forget(folder: Path) -> None:
    """Remove all parts: what was measured is written."""
    shutil.rmtree(folder, ignore_errors=True)


def _digest(test: Boxed, indices: Sequence[int], of: Sequence[str]) -> str:
    code = digest_of_files(sorted(Path(detection.__file__).parent.rglob("*.py")))
    told = [*versions(), code, *of, test.channels, test.white, *_seen(test, indices)]
    return blake2b(repr(told).encode(), digest_size=16).hexdigest()


def _seen(test: Boxed, indices: Sequence[int]) -> Iterator[tuple[int, str, int, int]]:
    for index in indices:
        about = test.marks[index].image.stat()
        yield index, str(test.marks[index].image), about.st_size, about.st_mtime_ns


def _file(place: Path, start: int) -> Path:
    return place / f"{start:06d}.npz"


def _write(file: Path, part: Sequence[Detections]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    counts = numpy.array([len(one.scores) for one in part])
    boxes, classes, scores = (
        torch.cat([getattr(one, name) for one in part]).numpy() for name in ("boxes", "classes", "scores")
    )
    with write_atomic(file) as temporary, temporary.open("wb") as opened:
        numpy.savez(opened, counts=counts, boxes=boxes, classes=classes, scores=scores)


def _read(file: Path) -> list[Detections]:
    """Return a part; nothing where there is none, or a damaged one, which is made again."""
    with (
        suppress(BadZipFile, EOFError, KeyError, OSError, ValueError),
        file.open("rb") as opened,  # which numpy leaves open where it is damaged
        numpy.load(opened) as kept,
    ):
        counts = kept["counts"].tolist()
        each = [torch.split(torch.from_numpy(kept[name]), counts) for name in ("boxes", "classes", "scores")]
        return [Detections(*one) for one in zip(*each, strict=True)]
    return []
