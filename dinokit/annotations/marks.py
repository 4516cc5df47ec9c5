"""What is drawn on an image as boxes, and what a layout of files says of a split: the one thing that its readers give.

A layout is a file of this folder with `readers(root)`, which returns what reads each split of a folder, by the name
that its files give the split, "" where there are none, and nothing of a folder that is not laid out so. It looks at
names alone; a file is read when its split is opened, but a table, whose rows may say of which split they are.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy
from jaxtyping import Bool, Float64

from dinokit.annotations.masks import say_once
from dinokit.core.messages import UserError

LONGEST = 60  # letters of what is no box
FARTHEST = 1e12  # pixels: no image reaches as far, and the area of a box is a number

Boxes = Float64[numpy.ndarray, "box 4"]


@dataclass(frozen=True)
class Marks:
    """An image and the boxes on it."""

    image: Path
    size: tuple[int, int]  # width, height
    boxes: Boxes
    names: tuple[str, ...]  # of what is in each, "" where nobody says
    crowd: Bool[numpy.ndarray, " box"]  # several things in one, as COCO says it
    difficult: Bool[numpy.ndarray, " box"]  # hard to see, as VOC says it
    areas: Float64[numpy.ndarray, " box"]  # pixels: of the outline where COCO says it, else of the box
    where: str  # the file that says so
    number: int | None = None  # of the image in a file of COCO
    absent: frozenset[str] = frozenset()  # LVIS: classes that were looked for and are not there
    some_drawn: frozenset[str] = frozenset()  # LVIS: classes of which not every one is drawn

    def some(self, wanted: Bool[numpy.ndarray, " box"]) -> "Marks":
        """Return some of the boxes."""
        names = tuple(name for name, kept in zip(self.names, wanted.tolist(), strict=True) if kept)
        crowd, difficult, areas = self.crowd[wanted], self.difficult[wanted], self.areas[wanted]
        return replace(self, boxes=self.boxes[wanted], names=names, crowd=crowd, difficult=difficult, areas=areas)


@dataclass(frozen=True)
class Kind:
    """What a file of COCO says of a class."""

    number: int  # its id, of any order and with gaps
    frequency: str = ""  # LVIS: r, c or f, for rare, common, frequent


@dataclass(frozen=True)
class Split:
    """What a layout says of a split."""

    marks: Iterable[Marks]
    kinds: Mapping[str, Kind] = field(default_factory=dict)  # classes by name, where a file of COCO numbers them
    federated: bool = False  # LVIS: a class was looked for in some images only


Readers = Mapping[str, Callable[[], Split]]  # name of a split -> what reads it


def plain(image: Path, size: tuple[int, int], boxes: Boxes, names: Sequence[str], where: str) -> Marks:
    """Return marks of which nothing is said but names."""
    none = numpy.zeros(len(boxes), bool)
    return Marks(image, size, boxes, tuple(names), none, none, areas(boxes), where)


def areas(boxes: Boxes) -> Float64[numpy.ndarray, " box"]:
    """Return the areas of boxes in pixels; 0 where an edge lies before the other."""
    found: Float64[numpy.ndarray, " box"] = (boxes[:, 2:] - boxes[:, :2]).clip(min=0).prod(axis=1)
    return found


def numbers(rows: Sequence[Any], where: str) -> Boxes:
    """Return rows of four numbers, or raise UserError."""
    with suppress(TypeError, ValueError, OverflowError):
        found = numpy.array(rows, dtype=numpy.float64).reshape(-1, 4)
        if len(found) == len(rows) and (numpy.abs(found) < FARTHEST).all():  # NaN is not
            return found
    for row in rows if len(rows) > 1 else ():
        numbers([row], where)
    row = rows[0]
    words = ", ".join("nothing" if each is None else str(each) for each in (row if isinstance(row, list) else [row]))
    raise UserError(f"expected numbers of pixels in {where}, got {words[:LONGEST]}; correct them there")


def say_twins(file: object, names: Iterable[str], *, kind: str = "classes") -> None:
    """Say which names a file gives to several classes."""
    for name, times in Counter(names).items():
        if times > 1:
            say_once(f"{file} calls several {kind} {name}: they are one class")


def say(data: object, odd: Mapping[str, Sequence[str]]) -> None:
    """Say what is odd of the boxes of a set, once for all that opens it, a line for each kind with the first place."""
    for kind, places in odd.items():
        if places:
            say_once(f"boxes of {data} {kind}: {len(places):,}, such as {places[0]}")
