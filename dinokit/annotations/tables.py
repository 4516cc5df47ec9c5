"""Boxes in a table, a box in each row, as a person makes one.

FILE           .csv .tsv .jsonl: path, x0, y0, x1, y1 and, if known, label, split; a row without numbers is an image
               without boxes
ROOT/boxes.csv the same, or boxes.tsv, .jsonl, or .json as COCO has it; or in ROOT/train/, ROOT/val/, by any name
               of a split, where a column split says nothing
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy

from dinokit.annotations import coco
from dinokit.annotations.marks import Marks, Readers, Split, numbers, plain, say
from dinokit.annotations.shares import TWICE
from dinokit.core.files import read_text
from dinokit.core.messages import UserError
from dinokit.sources.files import MANIFESTS, rows_of, written_path
from dinokit.sources.location import entries, known_splits, split_folders, split_name
from dinokit.sources.table import LABELS, PATHS, SPLITS, column, word_of

TABLES = (*(f"boxes{ending}" for ending in (*MANIFESTS, ".json")), "_annotations.coco.json")  # in a folder
EDGES = (("x0", "xmin", "left"), ("y0", "ymin", "top"), ("x1", "xmax", "right"), ("y1", "ymax", "bottom"))


def readers(root: Path) -> Readers:
    """Return what reads the table of a folder, or those of its splits."""
    table = _listed(root)
    if table is not None:
        return of_file(table)
    tables = {name: table for name, folder in split_folders(root).items() if (table := _listed(folder)) is not None}
    return {name: partial(_read, table) for name, table in tables.items()}


def is_set(root: Path) -> bool:
    """Tell by names alone whether a folder has a table, or folders of splits have."""
    return any(_listed(folder) is not None for folder in (root, *split_folders(root).values()))


def of_file(file: Path) -> Readers:
    """Return what reads a file: a table, or COCO's JSON."""
    ending = file.suffix.lower()
    if ending not in (*MANIFESTS, ".json"):
        raise UserError(
            f"expected boxes in a folder or a file that ends in {', '.join(MANIFESTS)}, .json (COCO), .yaml or .data "
            f"(YOLO), got {file}"
        )
    return {name: partial(_read, file, name) for name in ([""] if ending == ".json" else _splits(file))}


def _listed(folder: Path) -> Path | None:
    """Return the table of boxes in a folder, if there is one."""
    names = {name.lower(): name for name in entries(folder)[0]}
    return next((folder / names[name] for name in TABLES if name in names), None)


def _read(file: Path, split: str = "") -> Split:
    return coco.read_coco(file) if file.suffix.lower() == ".json" else Split(read_table(file, split))


def _splits(file: Path) -> list[str]:
    """Return the names of the splits in a table (`known_splits`), one of "" if there are none."""
    rows = rows_of(str(file))
    header = list(next(rows, ()))
    name = column(header, SPLITS)
    first = dict[str, int]()  # row of each
    for number, row in enumerate(rows if name is not None else (), start=1):
        first.setdefault(split_name(word_of(row[header.index(name)])), number)
    empty = first.pop("", None)
    splits = known_splits(first)
    if splits and empty:
        raise UserError(f"row {empty} of {file} has no {name}; give every row one, or none")
    return [*splits] or [""]


def read_table(file: Path, split: str = "") -> Iterator[Marks]:
    """Read a table with a box in each row, in the order of its images, or raise UserError.

    Args:
        split: whose rows are read, by its name here; "": all.
    """
    read_text(file)  # of UTF-8, or it is refused
    rows = rows_of(str(file))
    header = list(next(rows))
    names = [column(header, wanted) for wanted in (PATHS, *EDGES)]
    if None in names:
        raise UserError(f"{file} has the columns {', '.join(map(str, header))}; expected path, x0, y0, x1, y1")
    path, *edges = (header.index(name) for name in names)
    label, part = column(header, LABELS), column(header, SPLITS)
    found: dict[Path, dict[tuple[float | str, ...], None]] = {}  # the boxes of an image, each with its class
    twice = list[str]()
    for number, row in enumerate(rows, start=1):
        if split and split_name(word_of(row[header.index(part)])) != split:
            continue
        where, sides = f"row {number} of {file}", [row[edge] for edge in edges]
        if not isinstance(row[path], str) or not row[path].strip():
            raise UserError(f"{where} has no path; give it one or take the row out")
        each = found.setdefault(file.parent / written_path(row[path], str(file.parent)), {})
        if all(side is None or side == "" for side in sides):
            continue
        box = *numbers([sides], where)[0].tolist(), "" if label is None else word_of(row[header.index(label)])
        twice += [where] * (box in each)
        each[box] = None
    for image, each in found.items():
        boxes = numpy.array([box[:4] for box in each], dtype=numpy.float64).reshape(-1, 4)
        yield plain(image, (0, 0), boxes, [str(box[4]) for box in each], f"{image} in {file}")
    say(file, {TWICE: twice})
