"""Boxes around what is of a class, but the first, in the masks of a folder: ROOT/images/ and ROOT/masks/ (pairing)."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy

from dinokit.annotations.marks import Marks, Readers, Split, plain
from dinokit.annotations.masks import IGNORED
from dinokit.annotations.pairing import folders_of
from dinokit.annotations.pairs import open_pairs


def readers(root: Path) -> Readers:
    """Return what draws the boxes of each split."""
    pairs = folders_of(root, "masks")
    some = any(masks.is_dir() for _, masks in pairs.values())
    return {name: partial(_split, str(root), name or None) for name in pairs if some}


def _split(data: str, split: str | None) -> Split:
    return Split(_marks(data, split))


def _marks(data: str, split: str | None) -> Iterator[Marks]:
    pairs = open_pairs(data, split=split)
    for index, (image, file) in enumerate(zip(pairs.images, pairs.beside, strict=True)):
        mask = pairs.read(index)[1]
        kinds = [kind for kind in numpy.unique(mask).tolist() if kind not in (0, IGNORED)]
        places = [numpy.nonzero(mask == kind) for kind in kinds]
        boxes = [[across.min(), down.min(), across.max() + 1, down.max() + 1] for down, across in places]
        names = [pairs.meaning.classes[kind] for kind in kinds]
        size = mask.shape[1], mask.shape[0]
        yield plain(image, size, numpy.array(boxes, dtype=float).reshape(-1, 4), names, str(file))
