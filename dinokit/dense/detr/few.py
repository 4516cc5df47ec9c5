"""More to learn from a few images: pieces of them, alone or four in one picture, drawn once and written as pictures.

A detector that sees eight pictures and their mirrors learns where things lie, not what they are (docs/log.md). So a few
images are made hundreds of pictures: a piece of an image in its shape, or four square pieces of any images, two by two
(mosaic, as in YOLOv4, arXiv:2004.10934); the sides of a piece are 0.4 to 1 times the largest that fit. A box stays if
0.4 of it is seen. Pictures are files, so that features are kept of them as of any image, and a person can look at what
was learnt from. They follow from the images and the seed.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy
import torch
from PIL import Image

from dinokit.annotations.boxes import Boxed
from dinokit.annotations.marks import Marks, areas, plain
from dinokit.core.files import NO_ROOM, check_same, digest_of_files, no_room, read_json, write_atomic, write_json
from dinokit.core.messages import progress, slow
from dinokit.core.seed import generator
from dinokit.dense.detr.stamps import digest_of_boxes
from dinokit.dense.detr.views import View
from dinokit.images import intensity

LEAST = 0.4  # of the sides of the largest piece
VISIBLE = 0.4  # of the area of a box
TRIES = 5  # for a piece with a box
SHARP = 1.5  # times the size that is seen, at which images are held
STAMP = "pieces.json"

Held = tuple[intensity.AnyImage, Marks]


def more(data: Boxed, folder: Path, *, pictures: int, view: View, seed: int) -> Boxed:
    """Return a few images and pieces of them, which a folder keeps; many images are returned as they are.

    Args:
        pictures: how many there are in the end, the images themselves among them.
        view: how a picture is seen; none is made larger than that.

    Raises:
        RunError: if the disk is full.
    """
    count = pictures - len(data)
    if count <= 0:
        return data
    files = digest_of_files([one.image for one in data.marks])
    stamp = {"images": files, "boxes": digest_of_boxes(data), "size": view.size, "seed": seed, "pictures": count}
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / STAMP).exists():
        # what was learnt from other pieces would be refused next
        instead = "delete it, and features and training.pt beside it, or give another folder"
        check_same(read_json(folder / STAMP), stamp, place=folder, instead=instead)
    write_json(folder / STAMP, stamp)
    held = [_held(data, index, view.size) for index in range(len(data))]
    made = []
    with slow(f"drawing {count:,} pictures of pieces of {len(data):,} images"):
        for number in progress(range(count), count):
            draw = generator(seed, number)
            image, marks = _mosaic(held, view.size, draw) if number % 2 else _whole(held, view, draw)
            path = folder / f"{number:04d}{'.png' if _is_plain(image) else '.npy'}"
            if not path.exists():
                _write(path, image)
            made.append(replace(marks, image=path, where=str(path)))
    return replace(data, marks=(*data.marks, *made))


def shapes(sizes: Sequence[tuple[int, int]], *, pictures: int, view: View) -> list[tuple[int, int]]:
    """Return width and height of what `more` makes of images of some sizes: every other piece is a square of four."""
    side = 2 * max(1, view.size // 2)
    made = [(side, side) if number % 2 else sizes[number // 2 % len(sizes)] for number in range(pictures - len(sizes))]
    return [*sizes, *made]


def _held(data: Boxed, index: int, size: int) -> Held:
    """Read an image, and make one that is far larger than it is seen smaller."""
    image, marks = data.read(index), data.marks[index]
    height, width = image.shape[1:]
    scale = min(1.0, SHARP * size / min(height, width))
    height, width = max(1, round(height * scale)), max(1, round(width * scale))
    sides = numpy.array([width, height, width, height]) / [*marks.size, *marks.size]
    return intensity.resized(image, height, width), replace(marks, boxes=marks.boxes * sides, size=(width, height))


def _whole(held: Sequence[Held], view: View, draw: numpy.random.Generator) -> Held:
    """Draw a piece of an image in its shape."""
    one = held[int(draw.integers(len(held)))]
    height, width = one[0].shape[1:]
    longest = view.longest or max(height, width) * view.size
    scale = min(view.size / min(height, width), longest / max(height, width))
    return _piece(one, max(1, round(height * scale)), max(1, round(width * scale)), draw)


def _mosaic(held: Sequence[Held], size: int, draw: numpy.random.Generator) -> Held:
    """Put four square pieces together."""
    half = max(1, size // 2)
    pieces = [_piece(held[int(index)], half, half, draw) for index in draw.integers(len(held), size=4)]
    rows = [torch.cat([pieces[place][0] for place in pair], dim=2) for pair in ((0, 1), (2, 3))]
    corners = [(0, 0), (half, 0), (0, half), (half, half)]
    boxes = [marks.boxes + numpy.array(corner * 2) for (_, marks), corner in zip(pieces, corners)]
    parts = [marks for _, marks in pieces]
    names = [name for part in parts for name in part.names]
    marks = plain(parts[0].image, (2 * half, 2 * half), numpy.concatenate(boxes), names, parts[0].where)
    crowd, difficult = (numpy.concatenate([getattr(part, kind) for part in parts]) for kind in ("crowd", "difficult"))
    return torch.cat(rows, dim=1), replace(marks, crowd=crowd, difficult=difficult)


def _piece(held: Held, height: int, width: int, draw: numpy.random.Generator) -> Held:
    """Draw a piece of a shape and resize it, one with a box in it if some tries find one."""
    image, marks = held
    rows, columns = image.shape[1:]
    fits = min(rows / height, columns / width)
    for _ in range(TRIES):
        scale = fits * float(draw.uniform(LEAST, 1.0))
        down, across = max(1, int(height * scale)), max(1, int(width * scale))
        top, left = int(draw.integers(rows - down + 1)), int(draw.integers(columns - across + 1))
        boxes = (marks.boxes - [left, top, left, top]) * ([width / across, height / down] * 2)
        inside = numpy.clip(boxes, 0, [width, height, width, height])
        seen = areas(inside) >= VISIBLE * areas(boxes)
        if seen.any():
            break
    part = intensity.resized(image[:, top : top + down, left : left + across].contiguous(), height, width)
    return part, replace(marks, boxes=inside, size=(width, height), areas=areas(inside)).some(seen)


def _is_plain(image: intensity.AnyImage) -> bool:
    return image.dtype == torch.uint8 and image.shape[0] in (1, 3)


def _write(path: Path, image: intensity.AnyImage) -> None:
    values = image.permute(1, 2, 0).contiguous().numpy()
    try:
        with write_atomic(path) as temporary, temporary.open("wb") as file:
            if _is_plain(image):
                Image.fromarray(values[:, :, 0] if values.shape[2] == 1 else values).save(file, "PNG")
            else:
                numpy.save(file, values)
    except OSError as error:
        if error.errno not in (None, *NO_ROOM):  # numpy says no number
            raise
        raise no_room(path) from error
