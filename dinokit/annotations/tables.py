"""Boxes in a table, a box in each row, as a person makes one.

FILE           .csv .tsv .jsonl: path, x0, y0, x1, y1 and, if known, label; a row without numbers is an image
               without boxes
ROOT/boxes.csv the same, or boxes.tsv, .jsonl, or .json as COCO has it; or in ROOT/train/, ROOT/val/, by any name
               of a split
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy

from dinokit.annotations import coco
from dinokit.annotations.marks import Marks, Readers, Split, numbers, plain
from dinokit.annotations.pairing import read_image
from dinokit.core.messages import UserError
from dinokit.sources.files import MANIFESTS, rows_of
from dinokit.sources.location import split_folders
from dinokit.sources.table import LABELS, PATHS, column

TABLES = (*(f"boxes{ending}" for ending in (*MANIFESTS, ".json")), "_annotations.coco.json")  # in a folder
EDGES = (("x0", "xmin", "left"), ("y0", "ymin", "top"), ("x1", "xmax", "right"), ("y1", "ymax", "bottom"))


def readers(root: Path) -> Readers:
    """Return what reads the table of a folder, or those of its splits."""
    table = _listed(root)
    if table is not None:
        return of_file(table)
    tables = {name: table for name, folder in split_folders(root).items() if (table := _listed(folder)) is not None}
    return {name: reader for name, table in tables.items() for reader in of_file(table).values()}


def of_file(file: Path) -> Readers:
    """Return what reads a file: a table, or COCO's JSON."""
    return {"": partial(coco.read_coco, file) if file.suffix == ".json" else partial(_split, file)}


def _listed(folder: Path) -> Path | None:
    """Return the table of boxes in a folder, if there is one."""
    return next((folder / name for name in TABLES if (folder / name).is_file()), None)


def _split(file: Path) -> Split:
    return Split(read_table(file))


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
        boxes = [numbers([sides], f"row {number} of {file}") for sides, _, number in each]
        image = file.parent / name
        height, width = read_image(image, channels=None, white=None).shape[1:]
        kinds = [named for _, named, _ in each]
        yield plain(
            image, (width, height), numpy.concatenate([numpy.empty((0, 4)), *boxes]), kinds, f"{image} in {file}"
        )
