"""Boxes that people drew on images, from a table, from COCO's or Pascal VOC's files, or around masks.

    Pascal VOC     JPEGImages/NAME.jpg, Annotations/NAME.xml, ImageSets/Main/{train,val,trainval,test}.txt, or the
                   folder above
    COCO           annotations/instances_{train2014,...}.json, and the images in train2014/ or images/train2014/; the
                   split 20k are those of train2014 that coco_20k_filenames.txt lists
    a file         COCO's .json, its images beside it or in images/; or a table .csv .tsv .jsonl with a box in each row:
                   path, x0, y0, x1, y1 and, if known, label; a row without numbers is an image without boxes
    ROOT/boxes.csv the same, or boxes.tsv, .jsonl, .json; or in ROOT/train/, ROOT/val/, by any name of a split
    ROOT/images/, ROOT/masks/, with train/ and val/ or not (pairing.py): around what is of a class, but the first

A box is left, top, right, bottom in pixels of the image as it is shown, where edges lie: the whole is 0, 0, width,
height. VOC counts pixels from 1, of which the last belongs to the box, so that 1 is taken off the left and the top.
(The published code for discovery does so for VOC 2012 alone.) COCO gives left, top, width, height.

A box beyond its image is cut, one without area is left out; both are said. What is no number is a mistake.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy
from jaxtyping import Bool, Float64

from dinokit.annotations.masks import IGNORED, say_once
from dinokit.annotations.pairing import check_size, folders_of, read_image
from dinokit.annotations.pairs import open_pairs
from dinokit.core.files import read_json, read_text
from dinokit.core.messages import UserError, unknown_name
from dinokit.images import intensity
from dinokit.sources.files import MANIFESTS, rows_of
from dinokit.sources.location import existing_folder, split_folders, split_name
from dinokit.sources.table import LABELS, PATHS, column

TABLES = tuple(f"boxes{ending}" for ending in (*MANIFESTS, ".json"))  # in a folder
EDGES = (("x0", "xmin", "left"), ("y0", "ymin", "top"), ("x1", "xmax", "right"), ("y1", "ymax", "bottom"))
TWENTY = "coco_20k_filenames.txt"
ORDER = ("train", "trainval", "20k", "val", "test")  # of splits
LONGEST = 60  # letters of what is no box

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

    def some(self, wanted: Bool[numpy.ndarray, " box"]) -> "Marks":
        """Return some of the boxes."""
        names = tuple(name for name, kept in zip(self.names, wanted.tolist(), strict=True) if kept)
        crowd, difficult, areas = self.crowd[wanted], self.difficult[wanted], self.areas[wanted]
        return replace(self, boxes=self.boxes[wanted], names=names, crowd=crowd, difficult=difficult, areas=areas)


@dataclass(frozen=True)
class Boxed:
    """One split; picklable, holds no open file."""

    name: str
    marks: tuple[Marks, ...]
    channels: int
    white: float | int | None  # of deeper images

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
    marks = _checked(data, readers[chosen]())
    if not any(len(one.boxes) for one in marks):
        raise UserError(f"expected boxes on the images of {data}, found none")
    return Boxed(data, marks, channels, white)


def _in_order(names: Iterable[str]) -> list[str]:
    return sorted(filter(None, names), key=lambda name: [*ORDER, split_name(name)].index(split_name(name)))


def _readers(data: str) -> dict[str, Callable[[], Iterable[Marks]]]:
    """Return what reads each split; of "" where there are none."""
    root = Path(data).expanduser()
    file = root if root.is_file() else _listed(root)
    if file is not None:
        return {"": _reader(file)}
    existing_folder(data)
    tables = {name: table for name, folder in split_folders(root).items() if (table := _listed(folder)) is not None}
    if tables:
        return {name: _reader(table) for name, table in tables.items()}
    years = [root, *sorted(root.glob("VOC20*")), *sorted(root.glob("VOCdevkit/VOC20*"))]
    years = [path for path in years if (path / "JPEGImages").is_dir() and (path / "Annotations").is_dir()]
    if len(years) > 1:
        raise UserError(f"{data} holds {' and '.join(path.name for path in years)}; give the folder of one of them")
    for year in years:
        lists = [path for path in sorted((year / "ImageSets" / "Main").glob("*.txt")) if "_" not in path.stem]
        return {path.stem: partial(_voc, year, path) for path in lists} or {"": partial(_voc, year, None)}
    found: dict[str, Callable[[], Iterable[Marks]]] = {}
    for path in sorted((root / "annotations").glob("instances_*.json")):
        name = path.stem.removeprefix("instances_")
        found[name] = partial(read_coco, path, name)
        if name == "train2014" and (root / TWENTY).is_file():
            found["20k"] = partial(read_coco, path, name, root / TWENTY)
    found = found or {name: partial(_around, data, name or None) for name in folders_of(root, "masks")}
    if not found:
        raise UserError(
            f"expected boxes in {data}: JPEGImages/ and Annotations/ (Pascal VOC), annotations/instances_*.json "
            f"(COCO), {', '.join(TABLES)}, or images/ and masks/; found none of these"
        )
    return found


def _listed(folder: Path) -> Path | None:
    """Return the table of boxes in a folder, if there is one."""
    return next((folder / name for name in TABLES if (folder / name).is_file()), None)


def _reader(file: Path) -> Callable[[], Iterable[Marks]]:
    return partial(read_coco if file.suffix == ".json" else read_table, file)


def _checked(data: str, marks: Iterable[Marks]) -> tuple[Marks, ...]:
    """Cut boxes to their images, leave those without area out, and say it, with the first of each kind."""
    found, odd = list[Marks](), dict[str, list[str]]()
    for one in marks:
        if not one.image.is_file():
            raise UserError(
                f"expected the image {one.image} of {one.where}, which is not there; the set is not complete"
            )
        inside = numpy.clip(one.boxes, 0, [*one.size, *one.size])
        lost, empty = (~numpy.all(each[:, 2:] > each[:, :2], axis=1) for each in (inside, one.boxes))
        beyond = numpy.abs(inside - one.boxes).max(axis=1, initial=0) > 1  # a pixel is a way to count
        for kind, some in (
            ("without area are left out", empty),
            ("outside their image are left out", lost & ~empty),
            ("beyond the border of their image are cut", beyond & ~lost),
        ):
            odd.setdefault(kind, []).extend([f"{box.tolist()} of {one.where}" for box in one.boxes[some]])
        found.append(replace(one, boxes=inside).some(~lost))
    for kind, places in odd.items():
        if places:
            say_once(f"boxes of {data} {kind}: {len(places):,}, such as {places[0]}")
    return tuple(found)


def read_voc(file: Path, folder: Path) -> Marks:
    """Read an XML of Pascal VOC whose image lies in a folder, or raise UserError."""
    try:
        top = ElementTree.fromstring(read_text(file))
    except ElementTree.ParseError as error:
        raise UserError(f"{file} is no XML: {error}") from error
    things = top.findall("object")
    sides = [[each.findtext(f"bndbox/{name}") for name in ("xmin", "ymin", "xmax", "ymax")] for each in things]
    boxes = _numbers(sides, f"every bndbox of {file}") - (1, 1, 0, 0)
    whole = [top.findtext(f"size/{name}") or "" for name in ("width", "height")]
    width, height = _numbers([["0", "0", *whole]], f"the size in {file}")[0, 2:]
    image = folder / (top.findtext("filename") or f"{file.stem}.jpg")
    difficult = numpy.array([(each.findtext("difficult") or "0").strip() == "1" for each in things], dtype=bool)
    names = tuple((each.findtext("name") or "").strip() for each in things)
    crowd = numpy.zeros(len(boxes), bool)
    return Marks(image, (int(width), int(height)), boxes, names, crowd, difficult, _areas(boxes), str(file))


def _voc(root: Path, listed: Path | None) -> Iterator[Marks]:
    if listed is None:
        names = sorted(path.stem for path in (root / "Annotations").glob("*.xml"))
    else:
        names = read_text(listed).split()
    for name in names:
        yield read_voc(root / "Annotations" / f"{name}.xml", root / "JPEGImages")


def read_coco(file: Path, split: str = "", chosen: Path | None = None) -> Iterator[Marks]:
    """Read a JSON of COCO, in the order of its images, or raise UserError.

    Args:
        split: a folder that may hold its images.
        chosen: a list of some of them.
    """
    plain: Any = read_json(file)
    try:
        images = plain["images"]
        kinds = {kind["id"]: str(kind["name"]) for kind in plain.get("categories", ())}
        drawn: dict[Any, list[Any]] = {image["id"]: [] for image in images}
        for mark in plain["annotations"]:
            drawn[mark["image_id"]].append(mark)
        first = str(images[0]["file_name"])
        if chosen is not None:
            wanted = {Path(line).name for line in read_text(chosen).split()}
            images = [image for image in images if Path(image["file_name"]).name in wanted]
        top = file.parent.parent if file.parent.name == "annotations" else file.parent
        folders = [top / "images" / split, top / split, top / "images", top]
        folder = next((one for one in folders if (one / first).is_file()), folders[0])
        for image in images:
            marks, where = drawn[image["id"]], f"image {image['id']} of {file}"
            boxes = _numbers([mark["bbox"] for mark in marks], f"every bbox of {where}")
            boxes[:, 2:] += boxes[:, :2]
            crowd = numpy.array([bool(mark.get("iscrowd", 0)) for mark in marks], dtype=bool)
            names = tuple(kinds.get(mark.get("category_id"), "") for mark in marks)
            size = int(image["width"]), int(image["height"])
            areas = numpy.array([mark.get("area", area) for mark, area in zip(marks, _areas(boxes))], dtype=float)
            none = numpy.zeros(len(boxes), bool)
            yield Marks(folder / image["file_name"], size, boxes, names, crowd, none, areas, where)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(f"{file} is no list of images and boxes as COCO writes it: {error!r}") from error


def read_table(file: Path) -> Iterator[Marks]:
    """Read a table with a box in each row, in the order of its images, or raise UserError."""
    rows = rows_of(str(file))
    header = list(next(rows))
    names = [column(header, wanted) for wanted in (PATHS, *EDGES)]
    if None in names:
        raise UserError(f"{file} has the columns {', '.join(map(str, header))}; expected path, x0, y0, x1, y1")
    path, *edges = (header.index(name) for name in names)
    label = column(header, LABELS)
    found: dict[str, list[tuple[list[Any], str, int]]] = {}
    for number, row in enumerate(rows, start=1):
        sides = [row[edge] for edge in edges]
        named = "" if label is None else str(row[header.index(label)] or "")
        each = found.setdefault(str(row[path]).strip(), [])
        if not all(side is None or side == "" for side in sides):
            each.append((sides, named, number))
    for name, each in found.items():
        numbers = [_numbers([sides], f"row {number} of {file}") for sides, _, number in each]
        boxes = numpy.concatenate([numpy.empty((0, 4)), *numbers])
        image = file.parent / name
        height, width = read_image(image, channels=None, white=None).shape[1:]
        none, where = numpy.zeros(len(boxes), bool), f"{image} in {file}"
        kinds = tuple(named for _, named, _ in each)
        yield Marks(image, (width, height), boxes, kinds, none, none, _areas(boxes), where)


def _around(data: str, split: str | None) -> Iterator[Marks]:
    """Draw a box around what is of each class but the first, in the masks of a folder."""
    pairs = open_pairs(data, split=split)
    for index, (image, file) in enumerate(zip(pairs.images, pairs.beside, strict=True)):
        mask = pairs.read(index)[1]
        kinds = [kind for kind in numpy.unique(mask).tolist() if kind not in (0, IGNORED)]
        places = [numpy.nonzero(mask == kind) for kind in kinds]
        boxes = [[across.min(), down.min(), across.max() + 1, down.max() + 1] for down, across in places]
        none, names = numpy.zeros(len(boxes), bool), tuple(pairs.meaning.classes[kind] for kind in kinds)
        size = mask.shape[1], mask.shape[0]
        around = numpy.array(boxes, dtype=float).reshape(-1, 4)
        yield Marks(image, size, around, names, none, none, _areas(around), str(file))


def _areas(boxes: Boxes) -> Float64[numpy.ndarray, " box"]:
    areas: Float64[numpy.ndarray, " box"] = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return areas


def _numbers(rows: Sequence[Any], where: str) -> Boxes:
    """Return rows of four numbers, or raise UserError."""
    with suppress(TypeError, ValueError):
        found = numpy.array(rows, dtype=numpy.float64).reshape(-1, 4)
        if len(found) == len(rows) and numpy.isfinite(found).all():
            return found
    raise UserError(f"expected numbers of pixels in {where}, got {str(rows)[:LONGEST]}")
