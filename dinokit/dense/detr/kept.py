"""Features of images and their mirrors, computed once and kept on disk, so that a training never runs the network.

What a training sees follows from (seed, step), so that of many images only what its steps ask for is computed. A view
is a file, float16, whole or absent: a kill costs the view at hand. One that is damaged later is computed anew.

Where the disk has no room for what is missing, nothing more is kept, and what is not there is computed at the step that
asks for it. It passes float16 all the same, so that no number of the training depends on what is kept.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from jaxtyping import Float16
from torch import Tensor

from dinokit.annotations.boxes import Boxed
from dinokit.core.files import NO_ROOM, check_same, digest_of_model, read_json, write_atomic, write_json
from dinokit.core.messages import RunError, info, progress, warn
from dinokit.core.seed import generator
from dinokit.dense.detr import stamps
from dinokit.dense.detr.learning import Seen, numbered, order_of, scaled
from dinokit.dense.detr.views import View, features, width_of
from dinokit.images import intensity
from dinokit.models.features import Backbone

STAMP = "features.json"
OCTETS = 2  # of a number
SPARED = 0.05  # of the free space: what else the training writes
BLOCK = 4096  # bytes beyond its numbers that a file takes, at most

Shown = tuple[int, bool]  # an image, and whether its mirror


def octets(view: View, size: tuple[int, int], *, patch: int, width: int) -> int:
    """Return the bytes that the numbers of a view take of an image of (width, height) pixels.

    Args:
        width: numbers of a place.
    """
    rows, columns = view.sides(size[1], size[0], patch)
    return OCTETS * width * (rows // patch) * (columns // patch)


def asked(length: int, *, steps: int, batch_size: int, seed: int) -> list[Shown]:
    """Return what a training on so many images will see, each once, in the order of the images."""
    order, found = order_of(length, seed=seed), set[Shown]()
    for place in range(steps * batch_size):
        index, key = order(place)
        found.add((index, is_mirror(key)))
        if len(found) == 2 * length:
            break
    return sorted(found)


def is_mirror(key: tuple[int, ...]) -> bool:
    """Tell whether a view is of the mirror."""
    return bool(generator(*key).integers(2))


class Kept:
    """Views of a split, which are read where they are kept."""

    def __init__(
        self,
        backbone: Backbone,
        data: Boxed,
        classes: Sequence[str],
        view: View,
        folder: Path,
        *,
        wanted: Sequence[Shown] | None = None,
        passes: int | None = None,
    ) -> None:
        """Compute what is missing, or say that it does not fit; refuse a folder of other weights, images or views.

        Of an image that is not asked for the file is not read.

        Args:
            wanted: what will be seen; None: everything.
            passes: how often something will be seen, where that is known.
        """
        self.backbone, self.data, self.classes = backbone, data, numbered(classes)
        self.view, self.width, self.folder = view, width_of(backbone, view), folder
        folder.mkdir(parents=True, exist_ok=True)
        every = [(index, mirror) for index in range(len(data)) for mirror in (False, True)]
        self._claim(sorted({index for index, _ in (every if wanted is None else wanted)}))
        missing = [shown for shown in (every if wanted is None else wanted) if not self._file(*shown).exists()]
        if missing and self._fits(missing, passes):
            self._keep(missing)

    def __call__(self, index: int, key: tuple[int, ...]) -> Seen:
        """Return an image or its mirror."""
        return self.seen(index, mirror=is_mirror(key))

    def seen(self, index: int, *, mirror: bool) -> Seen:
        """Read a view, or compute it."""
        found = self._read(index, mirror)
        if found is None:
            found = self._computed(index, self.data.read(index), mirror=mirror)
        size = found.shape[2] * self.backbone.patch_size, found.shape[1] * self.backbone.patch_size
        return Seen(found.float(), size, scaled(self.data.marks[index], self.classes, seen=size, mirror=mirror))

    def _read(self, index: int, mirror: bool) -> Float16[Tensor, "feature rows columns"] | None:
        """Read a view, if it is there; one that is damaged is said and written anew."""
        file, patch = self._file(index, mirror), self.backbone.patch_size
        if not file.exists():
            return None
        width, height = self.data.marks[index].size
        rows, columns = (side // patch for side in self.view.sides(height, width, patch))
        wanted = self.width, rows, columns
        try:
            found = numpy.load(file)
            if found.dtype == numpy.float16 and found.shape == wanted:
                return torch.from_numpy(found)
        except (ValueError, EOFError):
            pass
        warn(f"{file} is damaged; its features are computed anew")
        file.unlink()
        self._keep([(index, mirror)])
        return torch.from_numpy(numpy.load(file))

    def _claim(self, indices: Sequence[int]) -> None:
        """Say whose features lie here, of images with those of before; refuse those of others."""
        place, stamp = self.folder / STAMP, {"weights": digest_of_model(self.backbone), "view": repr(self.view)}
        kept: Any = read_json(place) if place.exists() else None
        images = kept.get("images") if isinstance(kept, dict) else None
        before = images if isinstance(images, dict) else {}  # before, one digest stood for all images
        found = stamps.images(self.data, indices, before=before)
        if place.exists() or next(self.folder.glob("*.npy"), None) is not None:
            again = before.keys() & found.keys()
            same = stamps.held({key: before[key] for key in again})
            kept = {**kept, "images": same} if images is before else kept
            wanted = {**stamp, "images": stamps.held({key: found[key] for key in again})}
            learnt = " and training.pt beside it" * (self.folder.parent / "training.pt").exists()
            check_same(kept, wanted, place=self.folder, instead=f"delete it{learnt}, or give another folder")
        write_json(place, {**stamp, "images": before | found})

    def _fits(self, missing: Sequence[Shown], passes: int | None) -> bool:
        """Say what the views take; tell whether there is room for them."""
        patch = self.backbone.patch_size
        sizes = [octets(self.view, self.data.marks[index].size, patch=patch, width=self.width) for index, _ in missing]
        needed, free = sum(sizes) + BLOCK * len(sizes), shutil.disk_usage(self.folder).free
        what = f"features of {len(missing):,} views of {len(self.data):,} images take {_size(needed)} in {self.folder}"
        if needed > (1 - SPARED) * free:
            often = "" if passes is None else f", which runs the network {passes:,} times instead of {len(missing):,}"
            warn(
                f"{what}, where {_size(free)} are free: they are computed at every step{often}; a larger disk (--save),"
                " a smaller --size or fewer images let them be kept"
            )
            return False
        info(f"{what}, {_size(free)} are free; they are computed once and kept")
        return True

    def _keep(self, missing: Sequence[Shown]) -> None:
        """Compute and write views."""
        last, image = -1, torch.empty(0)
        for done, (index, mirror) in enumerate(progress(missing, len(missing))):
            if index != last:  # the mirror comes behind its image
                last, image = index, self.data.read(index)
            found = self._computed(index, image, mirror=mirror)
            try:
                with write_atomic(self._file(index, mirror)) as temporary, temporary.open("wb") as file:
                    numpy.save(file, found.numpy())
            except OSError as error:
                if error.errno not in (None, *NO_ROOM):  # numpy says no number where a disk is full
                    raise
                raise RunError(
                    f"no room is left in {self.folder} after {done:,} of {len(missing):,} views, which stay; "
                    "free space: the same command goes on"
                ) from error

    def _computed(self, index: int, image: intensity.Image, *, mirror: bool) -> Float16[Tensor, "feature rows columns"]:
        found = features(self.backbone, image, self.view, mirror=mirror).half()
        if not found.isfinite().all():
            raise RunError(f"features of {self.data.marks[index].image} are beyond what float16 holds, 65,504")
        return found

    def _file(self, index: int, mirror: bool) -> Path:
        return self.folder / f"{index:07d}{'m' if mirror else ''}.npy"


def _size(octets: int) -> str:
    return f"{octets / 1e9:,.1f} GB" if octets >= 1e9 else f"{octets / 1e6:,.1f} MB"
