"""Boxes that people drew on images, from a table, from COCO's, Pascal VOC's or YOLO's files, or around masks.

A layout is one file of this folder (marks.py says what it gives), and the first that knows a folder reads it: tables,
voc, coco, yolo, around; if others know it as well, that is said. A file is read by its ending: a table, COCO's .json,
the .yaml or .data of a set for YOLO.

A box is left, top, right, bottom in pixels of the image as it is shown, where edges lie: the whole is 0, 0, width,
height. A box beyond its image is cut, one without area is left out; both are said. What is no number is a mistake.
Average precision is measured on `written`, the boxes as they stand in the file, as pycocotools measures.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy

from dinokit.annotations import around, coco, tables, voc, yolo
from dinokit.annotations.marks import Kind, Marks, Readers, areas, say
from dinokit.annotations.masks import say_once
from dinokit.annotations.pairing import check_size, read_image, reading
from dinokit.core.messages import UserError, unknown_name
from dinokit.images import intensity
from dinokit.images.decode import shown_size
from dinokit.sources.location import SPLITS, existing_folder, split_name

LAYOUTS: Mapping[str, Callable[[Path], Readers]] = {
    "a table": tables.readers,
    "Pascal VOC": voc.readers,
    "COCO": coco.readers,
    "YOLO": yolo.readers,
    "images and masks": around.readers,
}
ORDER = ("train", "trainval", "20k", "val", "test")  # of splits


@dataclass(frozen=True)
class Boxed:
    """One split; picklable, holds no open file."""

    name: str
    marks: tuple[Marks, ...]  # boxes within their images
    written: tuple[Marks, ...]  # the same images; all boxes, also beyond the border and of no area
    channels: int
    white: float | int | None  # of deeper images
    split: str = ""  # as its files call it
    kinds: Mapping[str, Kind] = field(default_factory=dict)  # classes by name, where a file of COCO numbers them
    federated: bool = False  # LVIS: a class was looked for in some images only

    def __len__(self) -> int:
        return len(self.marks)

    def read(self, index: int) -> intensity.Image:
        """Read an image, or raise UserError: also if it is of another size than the one that was drawn on."""
        one = self.marks[index]
        image = read_image(one.image, channels=self.channels, white=self.white)
        check_size(one.image, image.shape[1:], Path(one.where), one.size[::-1], kind="boxes")
        return image


def box_splits(data: str) -> list[str]:
    """Return what the splits of images with boxes are called, train2017 as train; UserError if there are no boxes."""
    return list(dict.fromkeys(split_name(name) for name in _in_order(_readers(data))))


def box_domains(data: str) -> list[str]:
    """Return what the sets of COCO in a folder are called, such as those of COCO-O, which are opened as splits are."""
    root = Path(os.path.expanduser(data))
    found = list(coco.domains(root))
    return [] if set(map(split_name, found)) & set(SPLITS) or set(_readers(data)) != set(found) else found


def open_boxes(
    data: str,
    *,
    split: str | None = None,
    prefers: Sequence[str] = (),
    channels: int = 3,
    white: float | int | None = None,
) -> Boxed:
    """Open a split of images with boxes, of which there must be some, or raise UserError.

    Args:
        split: None is the first there is of `prefers`, or of all.
    """
    readers = _readers(data)
    names = _in_order(readers)
    if split is None:
        chosen = next((name for name in (*prefers, *names) if name in readers), "")
    else:
        same = [name for name in names if split in (name, split_name(name))]
        if not same:
            raise unknown_name(f"split of {data}", split, names) if names else UserError(f"{data} has no splits")
        chosen = same[0]
    read = readers[chosen]()
    written = tuple(map(_whole, read.marks))
    _check_named(written)
    marks = _checked(data, written)
    if not any(len(one.boxes) for one in marks):
        raise _without_boxes(data, written, [name for name in names if name != chosen])
    return Boxed(data, marks, written, channels, white, chosen, read.kinds, read.federated)


def _without_boxes(data: str, written: Iterable[Marks], others: Sequence[str]) -> UserError:
    lost = sum(len(one.boxes) for one in written)
    found = f"found {lost:,} without area or outside their image; correct them" if lost else "found none; draw some"
    more = f", or give another split: {', '.join(others)}" if others else ""
    return UserError(f"expected boxes on the images of {data}, {found}{more}")


def _in_order(names: Iterable[str]) -> list[str]:
    return sorted(filter(None, names), key=lambda name: [*ORDER, split_name(name)].index(split_name(name)))


def _readers(data: str) -> Readers:
    """Return what reads each split; of "" where there are none."""
    root = Path(os.path.expanduser(data))
    if os.path.isfile(root):
        return yolo.of_file(root) if root.suffix.lower() in yolo.FILES else tables.of_file(root)
    existing_folder(data)
    layouts = iter(LAYOUTS)
    for layout in layouts:
        if found := LAYOUTS[layout](root):
            break
    else:
        raise UserError(
            f"expected boxes in {data}: JPEGImages/ and Annotations/ (Pascal VOC), annotations/instances_*.json "
            f"(COCO), images/ and labels/ (YOLO), {', '.join(tables.TABLES)}, or images/ and masks/; found none"
        )
    others = [other for other in layouts if _fits(other, root)]
    if others:
        say_once(f"{data} is read as {layout}, not as {' or '.join(others)}, also there; give each a folder of its own")
    return found


def _fits(layout: str, root: Path) -> bool:
    try:
        return bool(LAYOUTS[layout](root))
    except UserError:  # there are several, or it is damaged
        return True


def _whole(one: Marks) -> Marks:
    """Return marks with the size of their image, which must be there, where their file does not say it."""
    if not os.path.isfile(one.image):  # to which a name that is too long is none
        raise UserError(
            f"expected the image {one.image} of {one.where}, which is not there; the set is not complete: "
            "put it there, or take it out of the list"
        )
    if min(one.size) > 0:
        return one
    with reading("image", one.image):
        size = shown_size(one.image.read_bytes())
    said = [side or own for side, own in zip(one.size, size, strict=True)]
    check_size(one.image, size[::-1], Path(one.where), said[::-1], kind="boxes")
    return replace(one, size=size)


def _check_named(marks: Iterable[Marks]) -> None:
    """Refuse boxes without a class where others have one."""
    seen = {bool(name): (one.where, name) for one in marks for name in one.names}
    if len(seen) > 1:
        raise UserError(
            f"{seen[False][0]} has a box without a class, while others have one, such as {seen[True][1]}; name it there"
        )


def _checked(data: str, marks: Iterable[Marks]) -> tuple[Marks, ...]:
    """Cut boxes to their images, leave those without area out, and say it, with the first of each kind."""
    found, odd = list[Marks](), dict[str, list[str]]()
    for one in marks:
        inside = numpy.clip(one.boxes, 0, [*one.size, *one.size])
        lost, empty = (~numpy.all(each[:, 2:] > each[:, :2], axis=1) for each in (inside, one.boxes))
        beyond = numpy.abs(inside - one.boxes).max(axis=1, initial=0) > 1  # a pixel is a way to count
        for kind, some in (
            ("without area are left out, except for AP", empty),
            ("outside their image are left out, except for AP", lost & ~empty),
            ("beyond the border of their image are cut, except for AP", beyond & ~lost),
        ):
            odd.setdefault(kind, []).extend([f"{box.tolist()} of {one.where}" for box in one.boxes[some]])
        found.append(replace(one, boxes=inside, areas=numpy.minimum(one.areas, areas(inside))).some(~lost))
    say(data, odd)
    return tuple(found)
