"""Manifests: a CSV or JSONL table (Parquet: `parquet.py`) with a path per image and what is known of it.

The columns are recognised by name (`table.py`), in upper or lower case; others are passed over, which is said. Paths
are relative to the folder of the manifest, absolute, or URLs.
"""

import csv
import json
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

from dinokit.core.errors import UserError
from dinokit.sources import location
from dinokit.sources.base import Source
from dinokit.sources.files import open_files, written_path
from dinokit.sources.table import NOTES, PATHS, WHITE, ColumnBuilder, Table, Texts, column, word_of

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")


def open_manifest(spec: str, *, split: str | None, channels: int) -> Source:
    """Open the images that a manifest lists.

    Raises:
        UserError: if it has no column of paths, no rows, or a row that cannot be read.
    """
    rows = _csv(spec) if location.suffix(spec) in (".csv", ".tsv") else _jsonl(spec)
    root = location.parent(spec)
    return open_files(spec, root, table_of_rows(spec, rows, root=root), split=split, channels=channels)


def table_of_rows(spec: str, rows: Iterator[Sequence[Any]], *, root: str) -> Table:
    """Build a table from rows, the first of which holds the names of the columns.

    Args:
        root: folder that the paths are relative to.

    Raises:
        UserError: if there is no column of paths, or a row without one, or a word that is no text.
    """
    names = list(next(rows))
    path, *notes = (column(names, wanted) for wanted in (PATHS, *NOTES, WHITE))
    if path is None:
        raise UserError(f"{spec} has the columns {', '.join(map(str, names))}, none of paths; name one of them path")
    builders = [(names.index(name), ColumnBuilder()) for name in notes if name is not None]
    place = names.index(path)

    def paths() -> Iterator[str]:
        for number, row in enumerate(rows, start=1):
            if not row[place] or not isinstance(row[place], str):
                raise UserError(f"row {number} of {spec} has no path; give it one or take the row out")
            for other, builder in builders:
                builder.add(word_of(row[other]))
            yield written_path(row[place], root)

    keys = Texts(paths())
    if not len(keys):
        raise UserError(f"{spec} has no rows; it takes one image per row")
    columns = {other: builder.build() for other, builder in builders}
    for found in columns.values():
        for word in found.words if found is not None else ():
            if not word.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in word):
                raise UserError(f"{spec} is no text of UTF-8, see {word!a}; save it as UTF-8")
    label, domain, split, white = (None if name is None else columns[names.index(name)] for name in notes)
    used = [path, *(name for name, found in zip(notes, (label, domain, split, white)) if found is not None)]
    unused = [str(name) for name in names if name not in used and name not in notes]
    remark = f"columns read: {', '.join(map(str, used))}; passed over: {', '.join(unused)}"
    return Table(keys=keys, label=label, domain=domain, split=split, white=white, remarks=(remark,) if unused else ())


def _csv(spec: str) -> Iterator[Sequence[str]]:
    """Yield the names of the columns, then the rows."""
    text = location.lines(spec)
    header = next(text)
    separator = max(",;\t", key=header.count)  # a spreadsheet writes what its country uses
    reader = csv.reader(chain([header], text), delimiter=separator, skipinitialspace=True)
    width = 0
    try:
        for row in reader:
            if not width:
                row = [name.strip() for name in row]
                width = len(row)
            if row and len(row) != width:
                raise UserError(f"line {reader.line_num} of {spec} has {len(row)} fields, the header has {width}")
            if row:
                yield row
    except csv.Error as error:
        raise UserError(f"line {reader.line_num} of {spec} is no CSV: {error}") from error
    if not width:
        raise UserError(f"{spec} is empty; it takes a row with the names of the columns, then one image per row")


def _jsonl(spec: str) -> Iterator[Sequence[Any]]:
    """Yield the names of the fields, then their values."""
    decode = json.JSONDecoder().raw_decode  # a third faster than json.loads, which looks for spaces first
    names: list[str] = []
    for number, line in enumerate(location.lines(spec), start=1):
        line = line.strip().strip("\ufeff")
        if not line:
            continue
        try:
            value, end = decode(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"line {number} of {spec} is no JSON: {error}") from error
        if end != len(line):
            raise UserError(f"line {number} of {spec} is no JSON: more follows after the object")
        if not isinstance(value, dict):
            raise UserError(f"line {number} of {spec} is {type(value).__name__}, expected an object with a path")
        if not names:
            # a field that only later objects have still counts
            names = [*value, *(wanted[0] for wanted in (*NOTES, WHITE) if column(value, wanted) is None)]
            yield names if column(value, PATHS) else list(value)
        yield [value.get(name) for name in names]
    if not names:
        raise UserError(f'{spec} is empty; it takes one object per line, such as {{"path": "a.jpg"}}')
