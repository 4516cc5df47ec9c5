"""Videos and the masks of their objects: DAVIS, YouTube-VOS and MOSE as published, a folder of frames, or a video file.

    DAVIS           JPEGImages/480p/VIDEO/00000.jpg, Annotations/480p/VIDEO/00000.png, ImageSets/2017/val.txt
    YouTube-VOS     [train/]JPEGImages/VIDEO/00000.jpg, [train/]Annotations/VIDEO/00000.png, every fifth frame or so
    MOSE            the same, every frame
    frames          VIDEO/*.jpg with a mask of the first one
    file            .mp4 .avi .mov .mkv .webm .gif with a mask of the first frame; needs the extra `video`

Masks hold the number of the object in every pixel, 0 where there is none, as paletted or gray PNG; 255 counts as none.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from dinokit.annotations.masks import raw
from dinokit.core.errors import UserError, unknown_name
from dinokit.core.hub import library
from dinokit.images import intensity
from dinokit.images.bad_image import BadImage
from dinokit.images.decode import EXTENSIONS, decode
from dinokit.images.orientation import rotated

FILES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".gif")
_RESOLUTION = "480p"  # of DAVIS, the one that is scored
_NONE = 255

Mask = UInt8[np.ndarray, "height width"]


@dataclass(frozen=True)
class Clip:
    """A video."""

    name: str
    place: Path  # of its frames, or the file
    frames: tuple[Path, ...]  # empty for a file
    masks: Mapping[str, Path]  # by the frame's name without ending

    def read(self, channels: int = 3) -> Iterator[tuple[str, intensity.Image]]:
        """Yield the name of each frame and its image, in order.

        Raises:
            UserError: if a frame cannot be read.
        """
        if not self.frames:
            yield from _decoded(self.place)
            return
        for frame in self.frames:
            try:
                yield frame.stem, decode(frame.read_bytes(), channels=channels)
            except BadImage as error:
                raise UserError(f"cannot read the frame {frame}: {error}; a video needs all of them") from error

    def mask(self, frame: str) -> Mask:
        """Read the mask of a frame.

        Raises:
            UserError: if it cannot be read or is in colours.
        """
        values = raw(self.masks[frame])
        if values.ndim == 3 or values.max(initial=0) > _NONE:
            raise UserError(f"{self.masks[frame]} holds colours; expected the number of an object in every pixel")
        found: Mask = np.where(values == _NONE, 0, values).astype(np.uint8)
        return found


def open_clips(spec: str, *, split: str = "val", mask: str | None = None) -> list[Clip]:
    """Open the videos of a set, or a single one with the mask of its first frame.

    Args:
        split: of DAVIS: a list in ImageSets/2017.
        mask: PNG of the first frame; for a folder of frames or a file.

    Raises:
        UserError: if there are none; the message says what was looked for.
    """
    root = Path(spec).expanduser()
    if not root.exists():
        raise UserError(f"{spec} does not exist; give a video, a folder of frames, or DAVIS, YouTube-VOS or MOSE")
    sets = [base for base in (root, root / "train") if (base / "JPEGImages").is_dir()]
    if root.is_file() or (_frames(root) and not sets):
        return [_single(root, mask)]
    if mask is not None:
        raise UserError(f"{spec} holds several videos with masks of their own; leave out mask")
    if sets:
        return _set(sets[0], split=split)
    raise UserError(
        f"expected frames, or JPEGImages/ with Annotations/, in {spec}, got {_some(root)}; see dinokit evaluate "
        "tracking --help"
    )


def _single(root: Path, mask: str | None) -> Clip:
    if mask is None:
        raise UserError(f"{root} needs a mask of its first frame; add --mask MASK.png")
    if not Path(mask).is_file():
        raise UserError(f"the mask {mask} does not exist; give a PNG of the first frame")
    if root.is_dir():
        frames = _frames(root)
        return Clip(root.name, root, frames, {frames[0].stem: Path(mask)})
    if root.suffix.lower() not in FILES:
        raise UserError(f"expected a video {' '.join(FILES)}, got {root}; a folder of frames works too")
    return Clip(root.stem, root, (), {_name(0): Path(mask)})


def _set(base: Path, *, split: str) -> list[Clip]:
    images, masks = base / "JPEGImages", base / "Annotations"
    if (images / _RESOLUTION).is_dir():
        images, masks = images / _RESOLUTION, masks / _RESOLUTION
    if not masks.is_dir():
        raise UserError(f"{masks} is missing: without masks nothing can be tracked")
    names = [folder.name for folder in sorted(images.iterdir()) if folder.is_dir()]
    lists = base / "ImageSets" / "2017"
    if lists.is_dir():
        chosen = lists / f"{split}.txt"
        if not chosen.is_file():
            raise unknown_name("split", split, [path.stem for path in sorted(lists.glob("*.txt"))])
        names = chosen.read_text(encoding="utf-8").split()
    if not names:
        raise UserError(f"no videos in {images}; expected a folder of frames for each")
    return [_of_set(images / name, masks / name) for name in names]


def _of_set(images: Path, masks: Path) -> Clip:
    frames = _frames(images) if images.is_dir() else ()
    if not frames:
        raise UserError(f"{images} holds no frames; the set is not complete")
    found = {path.stem: path for path in sorted(masks.glob("*.png"))}
    known = {frame.stem for frame in frames}
    if not found.keys() & known:
        raise UserError(f"{masks} holds no mask of a frame of {images}; the set is not complete")
    return Clip(images.name, images, frames, {name: path for name, path in found.items() if name in known})


def _frames(folder: Path) -> tuple[Path, ...]:
    """Return the images of a folder in the order of their names, numbers by value."""
    images = [p for p in folder.iterdir() if p.suffix.lower() in EXTENSIONS and not p.name.startswith(".")]
    return tuple(
        sorted(images, key=lambda path: (len(path.stem), path.stem) if path.stem.isdigit() else (0, path.stem))
    )


def _decoded(file: Path) -> Iterator[tuple[str, intensity.Image]]:
    av = library("av", extra="video")
    try:
        with av.open(str(file)) as container:
            frames = container.decode(video=0)
            first = next(frames, None)
            if first is None:
                raise UserError(f"{file} holds no frames")
            for number, frame in enumerate(chain([first], frames)):
                upright = rotated(frame.to_ndarray(format="rgb24"), frame.rotation)
                yield _name(number), torch.from_numpy(upright).permute(2, 0, 1)
    except (av.FFmpegError, IndexError) as error:
        raise UserError(f"cannot read the video {file}: {error}; convert it, or give a folder of its frames") from error


def _name(number: int) -> str:
    return f"{number:05d}"


def _some(folder: Path) -> str:
    names: Sequence[str] = sorted(path.name for path in folder.iterdir())[:3] if folder.is_dir() else [folder.name]
    return ", ".join(names) or "an empty folder"
