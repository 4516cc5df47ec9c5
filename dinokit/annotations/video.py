"""Videos and the masks of their objects: DAVIS, YouTube-VOS and MOSE as published, a folder of frames, or a video file.

    DAVIS           JPEGImages/480p/VIDEO/00000.jpg, Annotations/480p/VIDEO/00000.png, ImageSets/2017/val.txt
    YouTube-VOS     [train/]JPEGImages/VIDEO/00000.jpg, [train/]Annotations/VIDEO/00000.png, every fifth frame or so
    MOSE            the same, every frame
    frames          VIDEO/*.jpg with a mask of the first one
    file            .mp4 .avi .mov .mkv .webm, which need the extra `video`, .gif; with a mask of the first frame

Masks hold the number of the object in every pixel, 0 where there is none, and 255 counts as none; but if all masks of a
video are in black and white (masks.py), white is its one object. An object starts with the first mask that shows it.
Where the masks of a whole set show every object once (YouTube-VOS `valid`), 0 is no label: nothing can be scored.
Frames are in the order of their names, numbers by value, and of one size.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from dinokit.annotations.masks import IGNORED, Mask, read_mask
from dinokit.annotations.meaning import above_half, may_be_edges, white_of
from dinokit.annotations.pairing import check_size, read_image
from dinokit.core.files import read_text
from dinokit.core.messages import UserError, unknown_name, warn
from dinokit.core.order import natural
from dinokit.images import film, intensity
from dinokit.sources.location import choose_split, entries, is_image, split_folders

FIRST = "00000"  # frame of a file
FILES = (*film.VIDEOS, ".gif")
_RESOLUTION = "480p"  # of DAVIS, the one that is scored

Numbers = UInt8[np.ndarray, "height width"]


@dataclass(frozen=True)
class Clip:
    """A video."""

    name: str
    place: Path  # of its frames, or the file
    frames: tuple[Path, ...]  # empty for a file
    masks: Mapping[str, Path]  # by the frame's name without ending, in order
    starts: Mapping[int, str]  # object -> the frame whose mask is the first to show it
    repeated: bool  # whether a mask shows an object again
    white: int | None = None  # of masks in black and white

    def read(self, channels: int = 3, white: float | int | None = None) -> Iterator[tuple[str, intensity.Image]]:
        """Yield the name of each frame and its image, in order; refuse one of another size than those before."""
        stored = ((frame.stem, read_image(frame, channels=channels, white=white)) for frame in self.frames)
        size = None
        moving = (image for image, _ in film.frames(self.place, channels=channels))
        for name, image in stored if self.frames else ((f"{number:05d}", each) for number, each in enumerate(moving)):
            size = size or image.shape
            if image.shape != size:
                raise UserError(
                    f"frame {name} of {self.place} has {image.shape[2]} x {image.shape[1]} pixels, those before have "
                    f"{size[2]} x {size[1]}; a video has one size"
                )
            yield name, image

    def mask(self, frame: str, *, size: tuple[int, ...] | None = None) -> Numbers:
        """Read the mask of a frame, or raise UserError: also if it is in colours.

        Args:
            size: height and width of the frame, which the mask must have.
        """
        values = read_mask(self.masks[frame]).numbers(self.masks[frame])
        if size is not None:
            check_size(self.place, size, self.masks[frame], values.shape, kind="mask")
        if self.white is not None:
            return above_half(values, self.white).astype(np.uint8)
        found: Numbers = np.where(values == IGNORED, 0, values).astype(np.uint8)
        return found


@dataclass(frozen=True)
class Clips:
    """Videos, and what is known of their masks."""

    each: tuple[Clip, ...]
    mose2: bool  # whether they are of MOSE v2, which is scored in a way of its own
    scored: bool  # False: their masks show every object once, where it starts


def open_clips(spec: str, *, split: str | None = None, mask: str | None = None) -> Clips:
    """Open the videos of a set, or a single one with the mask of its first frame; look at all of the masks.

    Args:
        split: of DAVIS, a list in ImageSets/2017, None is val; else of folders such as train/ and valid/.
        mask: of the first frame; for a folder of frames or a file.

    Raises:
        UserError: if there are none, or a mask cannot be one; the message says what was looked for.
    """
    root = Path(os.path.expanduser(spec))
    if not root.exists():
        raise UserError(f"{spec} does not exist; give a video, a folder of frames, or DAVIS, YouTube-VOS or MOSE")
    within = {name: folder for name, folder in split_folders(root).items() if (folder / "JPEGImages").is_dir()}
    is_set = (root / "JPEGImages").is_dir() or bool(within)
    if root.is_file() or (_frames(root) and not is_set):
        return Clips((_single(root, mask),), mose2=False, scored=False)
    if not is_set:
        some = ", ".join(sorted(path.name for path in root.iterdir())[:3]) or "an empty folder"
        raise UserError(f"expected frames, or JPEGImages/ with Annotations/, in {spec}, got {some}")
    if mask is not None:
        raise UserError(f"{spec} holds several videos with masks of their own; leave out mask")
    base = root if (root / "JPEGImages").is_dir() else within[choose_split(spec, split, tuple(within)) or ""]
    clips = _set(base, split=split)
    empty = [clip.name for clip in clips if not clip.starts]
    if len(empty) == len(clips):
        raise UserError(f"no mask in {base / 'Annotations'} shows an object; the set is not complete")
    if empty:
        warn(f"{len(empty)} videos without an object in any mask are left out: {', '.join(empty[:3])}")
    scored = any(clip.repeated for clip in clips)
    if not scored:
        warn(f"the masks of {base} show every object once, where it starts: objects are followed, but not scored")
    mose2 = any(_is_second_mose(folder) for folder in (base, base.parent))
    return Clips(tuple(clip for clip in clips if clip.starts), mose2, scored)


def _is_second_mose(folder: Path) -> bool:
    """Tell MOSE v2, by the name of its folder or by its meta*.json, which knows the length of every video."""
    if folder.name.lower().replace("_", "").replace("-", "").startswith("mosev2"):
        return True
    for file in folder.glob("meta*.json"):
        with suppress(OSError, ValueError, AttributeError, TypeError, StopIteration):
            about = next(iter(json.loads(file.read_text(encoding="utf-8"))["videos"].values()))
            return {"objects", "length", "height", "width"} <= set(about)
    return False


def _single(root: Path, mask: str | None) -> Clip:
    if mask is None:
        raise UserError(f"{root} needs a mask of its first frame; add --mask MASK.png")
    if not Path(mask).is_file():
        raise UserError(f"the mask {mask} does not exist; give a PNG of the first frame")
    frames = _frames(root) if root.is_dir() else ()
    if not frames and root.suffix.lower() not in FILES:
        raise UserError(f"expected a video {' '.join(FILES)}, got {root}; a folder of frames works too")
    clip = _looked_at(
        root.name if frames else root.stem, root, frames, {frames[0].stem if frames else FIRST: Path(mask)}
    )
    if not clip.starts:
        raise UserError(f"the mask {mask} shows no object; expected numbers above 0, or white, where one is")
    return clip


def _set(base: Path, *, split: str | None) -> list[Clip]:
    images, masks = base / "JPEGImages", base / "Annotations"
    if (images / _RESOLUTION).is_dir():
        images, masks = images / _RESOLUTION, masks / _RESOLUTION
    if not masks.is_dir():
        raise UserError(f"{masks} is missing: without masks nothing can be tracked")
    lists = {path.stem: path for path in (base / "ImageSets" / "2017").glob("*.txt")}
    if lists and (split or "val") not in lists:
        raise unknown_name("split", split or "val", lists)
    names = read_text(lists[split or "val"]).split() if lists else sorted(entries(images)[1], key=natural)
    if not names:
        raise UserError(f"no videos in {images}; expected a folder of frames for each")
    clips = list[Clip]()
    for name in names:
        frames = _frames(images / name) if (images / name).is_dir() else ()
        if not frames:
            raise UserError(f"{images / name} holds no frames; the set is not complete")
        places = {frame.stem: masks / name / f"{frame.stem}.png" for frame in frames}
        found = {stem: path for stem, path in places.items() if path.is_file()}
        if not found:
            raise UserError(f"{masks / name} holds no mask of a frame of {images / name}; the set is not complete")
        clips.append(_looked_at(name, images / name, frames, found))
    return clips


def _looked_at(name: str, place: Path, frames: tuple[Path, ...], masks: Mapping[str, Path]) -> Clip:
    """Look at all masks of a video: their sizes, what their values mean, and where objects start."""
    seen, soft = dict[Path, set[int]](), list[Path]()
    # any white will do: the size alone counts here
    first = (frames[0], tuple(read_image(frames[0], channels=None, white=1).shape[1:])) if frames else None
    for path in masks.values():
        mask = read_mask(path)
        numbers = Mask(mask.numbers(path), lossy=mask.lossy)
        first = first or (place, numbers.values.shape)
        check_size(first[0], first[1], path, numbers.values.shape, kind="mask")
        seen[path] = set(numbers.levels)
        soft += [path] if may_be_edges(numbers) else []
        if max(seen[path]) > IGNORED:
            raise UserError(f"{path} holds the object {max(seen[path])}; expected numbers up to {IGNORED - 1}")
    white, starts, repeated = white_of(seen, soft), dict[int, str](), False
    for frame, path in masks.items():
        levels, top = seen[path], max(seen[path])
        if white is not None:
            levels = {1} if top == 1 or top > white // 2 else set()
        for number in sorted(levels - {0, IGNORED}):
            repeated |= number in starts
            starts.setdefault(number, frame)
    return Clip(name, place, frames, masks, starts, repeated, white)


def _frames(folder: Path) -> tuple[Path, ...]:
    """Return the images of a folder in the order of their names, numbers by value."""
    images = [path for path in folder.iterdir() if is_image(path.name) and not path.name.startswith(".")]
    if len({path.stem for path in images}) < len(images):
        raise UserError(f"{folder} holds several frames of one name; keep one of each")
    return tuple(sorted(images, key=lambda path: natural(path.stem)))
