"""Masks of a video on disk: a paletted PNG and an overlay for every frame, and an animation of all.

OUT/VIDEO/masks/00000.png, overlay/00000.jpg, overlay.webp; the folder has its name once it is whole
"""

import shutil
from pathlib import Path
from typing import final

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from dinokit.core import depth
from dinokit.data.masks import palette
from dinokit.dense import draw

_COLOURS = 255
_SHARE = 0.5  # of the colour of an object
_ANIMATED = 640  # pixels, longest side
_MILLISECONDS = 66  # of a frame

Mask = UInt8[np.ndarray, "height width"]


def masks_of(out: Path, video: str) -> dict[str, Mask] | None:
    """Read the masks of a video that is whole; None if it is not there."""
    folder = out / video / "masks"
    if not folder.is_dir():
        return None
    found = {}
    for path in sorted(folder.glob("*.png")):
        with Image.open(path) as image:
            found[path.stem] = np.asarray(image)
    return found


@final
class Writer:
    """Writes the frames of one video as they come."""

    def __init__(self, out: Path, video: str) -> None:
        self.folder = out / video
        self.partial = out / f".{video}.part"
        shutil.rmtree(self.partial, ignore_errors=True)
        for name in ("masks", "overlay"):
            (self.partial / name).mkdir(parents=True)
        self.frames: list[Image.Image] = []

    def add(self, name: str, image: depth.Image, mask: Mask) -> None:
        """Write a frame."""
        indexed = Image.fromarray(mask, mode="P")
        colours = palette(_COLOURS)
        indexed.putpalette([value for colour in colours for value in colour])
        indexed.save(self.partial / "masks" / f"{name}.png")
        shown = overlaid(image, mask)
        shown.save(self.partial / "overlay" / f"{name}.jpg", quality=90)
        shown.thumbnail((_ANIMATED, _ANIMATED))
        self.frames.append(shown)

    def close(self) -> None:
        """Write the animation and give the folder its name."""
        first, *rest = self.frames
        first.save(
            self.partial / "overlay.webp", save_all=True, append_images=rest, duration=_MILLISECONDS, loop=0, quality=80
        )
        shutil.rmtree(self.folder, ignore_errors=True)
        self.partial.rename(self.folder)


def overlaid(image: depth.Image, mask: Mask) -> Image.Image:
    """Lay the colours of the objects over a frame."""
    colours = np.array(palette(int(mask.max()) + 1), dtype=np.uint8)[mask]
    return Image.fromarray(draw.mixed(draw.rgb(image.cpu()), colours, _SHARE * (mask > 0)))
