"""Manifests: a CSV or JSONL table (Parquet: `data/parquet.py`) with a path per image and what is known of it.

The columns are recognised by name (`data/table.py`), in upper or lower case; others are passed over. Paths are relative
to the folder of the manifest, absolute, or URLs.
"""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from dinokit.core.errors import UserError
from dinokit.sources import location
from dinokit.sources.base import Source
from dinokit.sources.files import FileSource
from dinokit.sources.table import DOMAINS, LABELS, PATHS, SPLITS, ColumnBuilder, Table, Texts, column

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")

Rows = Iterator[Sequence[Any]]


def open_manifest(spec: str, *, split: str | None, channels: int) -> Source:
    """Open the images that a manifest lists.

    Raises:
        UserError: if it has no column of paths, no rows, or a row that cannot be read.
    """
    return FileSource(spec, location.parent(spec), _table(spec), split=split, channels=channels)


def table_of_rows(spec: str, names: Sequence[str], rows: Rows) -> Table:
    """Build a table from rows with the columns `names`.

    Raises:
        UserError: if there is no column of paths, or a row without one.
    """
    path = column(names, PATHS)
    if path is None:
        raise UserError(f"{spec} has the columns {', '.join(map(str, names))}, none of paths; name one of them path")
    found = [(column(names, wanted), ColumnBuilder()) for wanted in (LABELS, DOMAINS, SPLITS)]
    places = [(list(names).index(name), builder) for name, builder in found if name is not None]
    paths = Texts(_paths(spec, rows, list(names).index(path), places))
    if not len(paths):
        raise UserError(f"{spec} has no rows; it takes one image per row")
    label, domain, split = (builder.build() for _, builder in found)
    return Table(keys=paths, label=label, domain=domain, split=split)


def _table(spec: str) -> Table:
    read = _csv if location.suffix(spec) in (".csv", ".tsv") else _jsonl
    names, rows = read(spec, location.lines(spec))
    return table_of_rows(spec, names, rows)


def _paths(spec: str, rows: Rows, path: int, places: list[tuple[int, ColumnBuilder]]) -> Iterator[str]:
    adders = [(place, builder.add) for place, builder in places]
    for number, row in enumerate(rows, start=1):
        found = row[path]
        if not found or not isinstance(found, str):
            raise UserError(f"row {number} of {spec} has no path; give it one or take the row out")
        for place, add in adders:
            add(row[place])
        yield found


def _csv(spec: str, text: Iterator[str]) -> tuple[list[str], Rows]:
    header = next(text)
    separator = max(",;\t", key=header.count)  # a spreadsheet writes what its country uses
    reader = csv.reader(chain([header], text), delimiter=separator, skipinitialspace=True)
    names = [name.strip() for name in next(reader, [])]
    if not names:
        raise UserError(f"{spec} is empty; it takes a row with the names of the columns, then one image per row")
    return names, _csv_rows(spec, reader, len(names))


def _csv_rows(spec: str, reader: Any, width: int) -> Rows:
    try:
        for row in reader:
            if not row:
                continue
            if len(row) != width:
                raise UserError(f"line {reader.line_num} of {spec} has {len(row)} fields, the header has {width}")
            yield row
    except csv.Error as error:
        raise UserError(f"line {reader.line_num} of {spec} is no CSV: {error}") from error


def _jsonl(spec: str, text: Iterator[str]) -> tuple[list[str], Rows]:
    lines = _json_lines(spec, text)
    first = next(lines, None)
    if first is None:
        raise UserError(f'{spec} is empty; it takes one object per line, such as {{"path": "a.jpg"}}')
    wanted = [column(first, names) for names in (PATHS, LABELS, DOMAINS, SPLITS)]
    # a field that only later objects have still counts
    names = [name or default[0] for name, default in zip(wanted, (PATHS, LABELS, DOMAINS, SPLITS))]
    if wanted[0] is None:
        return list(first), iter(())
    path, label, domain, split = names
    rows = ((r.get(path), r.get(label), r.get(domain), r.get(split)) for r in chain([first], lines))
    return names, rows


def _json_lines(spec: str, text: Iterator[str]) -> Iterator[Mapping[str, Any]]:
    decode = json.JSONDecoder().raw_decode  # a third faster than json.loads, which looks for spaces first
    for number, line in enumerate(text, start=1):
        line = line.strip()
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
        yield value
