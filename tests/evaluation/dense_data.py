"""Pictures with known masks: a bright square on a dark ground, or a second, reddish kind of square."""

from pathlib import Path

import numpy
from PIL import Image


def squares(root: Path, *, train: int = 4, val: int = 3, side: int = 24, splits: bool = True) -> Path:
    """Write pairs whose classes any patch shows by its colour: 0 ground, 1 white squares, 2 red ones, 255 a rim."""
    for split, count in (("train", train), ("val", val)) if splits else (("", train),):
        for name in ("images", "masks"):
            (root / split / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            draws = numpy.random.default_rng([len(split), number])
            image = draws.integers(0, 60, (side, side + 8, 3))
            mask = numpy.zeros((side, side + 8), dtype=numpy.uint8)
            for kind, left in ((1, 0), (2, 16)) if splits else ((1, 4),):
                top = 4 * int(draws.integers(0, (side - 8) // 4))
                place = (slice(top, top + 8), slice(left, left + 8))
                mask[place] = kind
                image[place] += numpy.array([180, 180, 180] if kind == 1 else [190, 0, 0])
            mask[-1] = 255 if splits else mask[-1]
            Image.fromarray(image.astype(numpy.uint8)).save(root / split / "images" / f"{number}.png")
            Image.fromarray(mask).save(root / split / "masks" / f"{number}.png")
    return root
