"""Mask files -> class ids: gray or paletted values, or one colour per class; 255 is what does not count.

A set is read in one way: if any of its masks is in colours, all are. Gray masks of nothing but 0 and 255 have two
classes, background and foreground; in any other the value is the class and 255 is ignored.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from jaxtyping import Integer, UInt8
from PIL import Image

from dinokit.core.errors import UserError
from dinokit.images.bad_image import BadImage, reasons

IGNORED = 255
MOST = 255  # classes 0 to 254
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Meaning:
    """What the values of masks stand for."""

    classes: tuple[str, ...]
    colours: tuple[Colour, ...]
    ids: Mapping[int, int]  # value, or 0xRRGGBB in colours -> class or 255
    coloured: bool = False


def palette(count: int) -> tuple[Colour, ...]:
    """Return well separated colours, the first black: the bits of the class spread over those of the channels (VOC)."""
    found = []
    for number in range(count):
        red = green = blue = 0
        for bit in range(8):
            red |= (number >> (3 * bit) & 1) << (7 - bit)
            green |= (number >> (3 * bit + 1) & 1) << (7 - bit)
            blue |= (number >> (3 * bit + 2) & 1) << (7 - bit)
        found.append((red, green, blue))
    return tuple(found)


def numbered(classes: Sequence[str], *, first: int = 0, ignored: Iterable[int] = (IGNORED,)) -> Meaning:
    """Return masks whose values count the classes from `first`."""
    ids = dict.fromkeys(ignored, IGNORED) | {first + index: index for index in range(len(classes))}
    return Meaning(tuple(classes), palette(len(classes)), ids)


def raw(path: Path) -> Integer[numpy.ndarray, "height width"] | UInt8[numpy.ndarray, "height width 3"]:
    """Read the values of a mask: indices of a palette, gray values or colours.

    Raises:
        UserError: if it cannot be read.
    """
    try:
        with reasons(), Image.open(path) as image:
            if image.mode in ("P", "L", "1", "I", "I;16", "I;16B"):
                return numpy.asarray(image).astype(numpy.int32)
            colours = numpy.asarray(image.convert("RGB"))
    except BadImage as error:
        raise UserError(f"cannot read the mask {path}: {error}; repair it or take the pair away") from error
    gray = (colours == colours[..., :1]).all()
    return colours[..., 0].astype(numpy.int32) if gray else colours


def class_ids(path: Path, meaning: Meaning) -> UInt8[numpy.ndarray, "height width"]:
    """Read a mask as class ids.

    Raises:
        UserError: if it cannot be read, or holds a value that is no class.
    """
    values = _packed(raw(path), coloured=meaning.coloured)
    known = numpy.array(sorted(meaning.ids))
    classes = numpy.array([meaning.ids[value] for value in known.tolist()], dtype=numpy.uint8)
    place = numpy.searchsorted(known, values).clip(max=len(known) - 1)
    strange = values[known[place] != values]
    if len(strange):
        shown = f"#{int(strange[0]):06x}" if meaning.coloured else str(int(strange[0]))
        raise UserError(f"the mask {path} holds {shown}, which is none of the {len(meaning.classes)} classes")
    found: UInt8[numpy.ndarray, "height width"] = classes[place]
    return found


def described(folder: Path, masks: Sequence[Path]) -> Meaning:
    """Find out what masks mean: by classes.txt or classes.json in the folder, or else by looking at all of them.

    classes.txt holds one name per line, the first for value 0; classes.json a list of names, or an object that gives
    each name its colour [red, green, blue].

    Raises:
        UserError: if the file is none of these, or there are more values than classes can be.
    """
    text, table = folder / "classes.txt", folder / "classes.json"
    if text.is_file():
        return numbered([line.strip() for line in text.read_text(encoding="utf-8").splitlines() if line.strip()])
    if table.is_file():
        return _from_json(table)
    seen, coloured, colours = set[int](), False, set[int]()
    for path in masks:
        values = raw(path)
        coloured |= values.ndim == 3
        colours |= set(numpy.unique(_packed(values, coloured=True)).tolist())
        if values.ndim == 2:
            seen |= set(numpy.unique(values).tolist())
        if len(colours) > MOST + 1:
            raise UserError(
                f"{path} brings the masks to over {MOST} values: no masks of classes, or lossy files; use PNG"
            )
    if coloured:
        return _coloured({f"#{value:06x}": value for value in sorted(colours)})
    if seen == {0, IGNORED}:
        return Meaning(("background", "foreground"), ((0, 0, 0), (255, 255, 255)), {0: 0, IGNORED: 1})
    largest = max(seen - {IGNORED}, default=0)
    if largest >= MOST:
        raise UserError(f"masks in {folder} hold the value {largest}; classes are 0 to {MOST - 1}, 255 is ignored")
    return numbered([str(value) for value in range(largest + 1)])


def _packed(values: Integer[numpy.ndarray, "..."], *, coloured: bool) -> Integer[numpy.ndarray, "height width"]:
    if not coloured:
        return values if values.ndim == 2 else _packed(values, coloured=True)
    if values.ndim == 2:
        values = numpy.repeat(values[..., None], 3, axis=2)
    red, green, blue = numpy.moveaxis(values.astype(numpy.int32), 2, 0)
    packed: Integer[numpy.ndarray, "height width"] = red << 16 | green << 8 | blue
    return packed


def _coloured(colours: Mapping[str, int]) -> Meaning:
    triples = tuple((value >> 16, value >> 8 & 255, value & 255) for value in colours.values())
    ids = {value: index for index, value in enumerate(colours.values())}
    return Meaning(tuple(colours), triples, ids, coloured=True)


def _from_json(path: Path) -> Meaning:
    try:
        plain: Any = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(plain, list) and plain and all(isinstance(name, str) for name in plain):
            return numbered(plain)
        colours = {
            str(name): (int(red) << 16 | int(green) << 8 | int(blue)) for name, (red, green, blue) in plain.items()
        }
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is neither a list of names nor an object of name: [red, green, blue]") from error
    return _coloured(colours)
