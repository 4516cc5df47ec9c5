"""Masks of a video on disk: a paletted PNG and an overlay for every frame, and a film of all.

OUT/VIDEO/masks/00000.png, overlay/00000.jpg, overlay.mp4; the folder has its name once it is whole. Without the extra
`video` the film is overlay.webp, whose frames are held in memory.
"""

import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import final

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from dinokit.annotations.masks import palette
from dinokit.core.hub import library
from dinokit.dense import draw
from dinokit.images import intensity

_COLOURS = 255
_SHARE = 0.5  # of the colour of an object
_LONGEST = 640  # pixels of a frame of the film
_RATE = 15  # frames per second

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
        self.film = _Mp4(self.partial) if find_spec("av") else _Webp(self.partial)

    def add(self, name: str, image: intensity.Image, mask: Mask) -> None:
        """Write a frame."""
        indexed = Image.fromarray(mask, mode="P")
        colours = palette(_COLOURS)
        indexed.putpalette([value for colour in colours for value in colour])
        indexed.save(self.partial / "masks" / f"{name}.png")
        shown = overlaid(image, mask)
        shown.save(self.partial / "overlay" / f"{name}.jpg", quality=90)
        shown.thumbnail((_LONGEST, _LONGEST))
        self.film.add(shown)

    def close(self) -> None:
        """End the film and give the folder its name."""
        self.film.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.partial.rename(self.folder)


class _Mp4:
    """H.264, as every browser plays it."""

    def __init__(self, folder: Path) -> None:
        self.av = library("av", extra="video")
        self.container = self.av.open(str(folder / "overlay.mp4"), "w")
        self.stream = self.container.add_stream("h264", rate=_RATE, options={"crf": "20"})
        self.stream.pix_fmt = "yuv420p"
        self.sized = False

    def add(self, image: Image.Image) -> None:
        if not self.sized:  # colours are stored for squares of four pixels
            self.stream.width, self.stream.height = (max(length // 2 * 2, 2) for length in image.size)
            self.sized = True
        frame = self.av.VideoFrame.from_image(image.resize((self.stream.width, self.stream.height)))
        self.container.mux(self.stream.encode(frame))

    def close(self) -> None:
        self.container.mux(self.stream.encode())
        self.container.close()


class _Webp:
    def __init__(self, folder: Path) -> None:
        self.file = folder / "overlay.webp"
        self.frames: list[Image.Image] = []

    def add(self, image: Image.Image) -> None:
        self.frames.append(image)

    def close(self) -> None:
        first, *rest = self.frames
        first.save(self.file, save_all=True, append_images=rest, duration=1000 // _RATE, loop=0, quality=80)


def overlaid(image: intensity.Image, mask: Mask) -> Image.Image:
    """Lay the colours of the objects over a frame."""
    colours = np.array(palette(int(mask.max()) + 1), dtype=np.uint8)[mask]
    return Image.fromarray(draw.mixed(draw.rgb(image.cpu()), colours, _SHARE * (mask > 0)))
