"""Images that are files of their own: a folder, a glob pattern, a list, a manifest; on this machine or on a server.

A manifest is a CSV or JSONL table (Parquet: `rows.py`) with a path per image and what is known of it. Its columns are
recognised by name (`table.py`), in upper or lower case; others are passed over, which is said. Paths are relative to
the folder of the list or manifest, absolute, or URLs.
"""

import csv
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Any

import numpy as np

from dinokit.core.messages import BadImage, UserError, reason
from dinokit.sources import location
from dinokit.sources.base import Source, from_table
from dinokit.sources.location import EXTENSIONS, choose_split, folder_splits
from dinokit.sources.table import (
    NOTES,
    PATHS,
    WHITE,
    Column,
    ColumnBuilder,
    Table,
    Texts,
    column,
    column_of,
    passed_over,
    table_of_paths,
    word_of,
)

MANIFESTS = (".csv", ".tsv", ".jsonl", ".ndjson")
# a path, and what follows it in its line
_FOLLOWED = re.compile(rf"(.*?(?:{'|'.join(map(re.escape, EXTENSIONS))}))[\s,;]+(.+)", re.IGNORECASE)


def fetch_file(root: str, keys: Texts, row: int) -> bytes:
    """Read the file of a row, relative to the root or absolute; if a disk or server fails, that is one BadImage."""
    try:
        return location.read(location.join(root, keys[row]))
    except (OSError, ValueError) as error:
        why = reason(error) if isinstance(error, OSError) else str(error)
        raise BadImage(f"cannot open: {why}") from error


def open_files(spec: str, root: str, table: Table, *, split: str | None, channels: int) -> Source:
    """Open the files of a table, whose keys are paths relative to a root, or absolute, or URLs."""
    return from_table(spec, table, partial(fetch_file, root, table.keys), split=split, channels=channels)


def open_folder(spec: str, *, split: str | None, channels: int) -> Source:
    """Open a folder with all its sub-folders, sorted by path; hidden files are left out.

    Folders named as splits are splits; if all images lie in (two or more) sub-folders, these are the labels.
    """
    splits = folder_splits(location.existing_folder(spec))
    if not splits:
        return open_several(spec, split=split, channels=channels)
    chosen = choose_split(spec, split, tuple(splits))
    assert chosen is not None
    root = splits[chosen]
    paths, remarks = images_among(sorted(location.walk(root)), where=str(root))
    for folder in location.entries(root.parent)[1]:
        inside = location.walk(root.parent / folder) if root.parent / folder not in splits.values() else ()
        one = next((path for path in inside if location.is_image(path)), None)
        if one is not None:
            among = ", ".join(splits)
            remarks += (f"images beside the folders {among} are passed over, such as {folder}/{one}",)
    # the classes of all splits, so that a label means the same in train and in test
    tops = [path.split("/", 1)[0] for path in paths]
    classes = tuple(sorted(set(tops).union(*(location.entries(folder)[1] for folder in splits.values()))))
    label = None
    if all("/" in path for path in paths) and len(classes) > 1:
        place = {name: number for number, name in enumerate(classes)}
        label = Column(classes, np.array([place[top] for top in tops], dtype=np.int32))
    table = Table(keys=Texts(paths), label=label, remarks=remarks)
    return open_files(spec, str(root), table, split=None, channels=channels)


def open_several(spec: str, *, split: str | None, channels: int) -> Source:
    """Open what fits a pattern, or lies below a folder or a URL (s3://bucket/prefix); folders are splits and labels."""
    if location.is_pattern(spec):
        root, where = location.fixed_folder(spec), f"the pattern {spec}"
        start = f"{root.rstrip('/')}/"
        paths = [path.removeprefix(start) for path in location.expand(spec)]
    else:
        root, where, paths = spec, spec, sorted(location.walk(spec))
    images, remarks = images_among(paths, where=where)
    table = table_of_paths(Texts(images), where=spec, remarks=remarks)
    return open_files(spec, root, table, split=split, channels=channels)


def open_list(spec: str, *, split: str | None, channels: int) -> Source:
    """Open a text of one path or URL per line, relative to its folder; all with their label behind them, or none."""
    root, found = location.parent(spec), list[tuple[str, str]]()
    for number, line in enumerate(location.lines(spec), start=1):
        path, word = line.strip(), ""
        followed = None if location.is_image(path) else _FOLLOWED.fullmatch(path)
        if followed is not None and not os.path.exists(location.join(root, path)):
            path, word = followed[1], followed[2].strip()
        if path and (len(word.split()) > 1 or bool(word) != bool(found[0][1] if found else word)):
            raise UserError(
                f"line {number} of {spec} is '{line.strip()}'; expected in every line a path, or in every line a path "
                "and one word, its label"
            )
        if path:
            found.append((written_path(path, root), word))
    if not found:
        raise UserError(f"{spec} is empty; it takes one path of an image per line")
    table = Table(keys=Texts(path for path, _ in found), label=column_of(word_of(word) for _, word in found))
    return open_files(spec, root, table, split=split, channels=channels)


def open_manifest(spec: str, *, split: str | None, channels: int) -> Source:
    """Open the images that a manifest lists."""
    root = location.parent(spec)
    return open_files(spec, root, table_of_rows(spec, rows_of(spec), root=root), split=split, channels=channels)


def rows_of(spec: str) -> Iterator[Sequence[Any]]:
    """Yield the names of the columns of a manifest, then its rows."""
    return _csv(spec) if location.suffix(spec) in (".csv", ".tsv") else _jsonl(spec)


def table_of_rows(spec: str, rows: Iterator[Sequence[Any]], *, root: str) -> Table:
    """Build a table from rows, the first of which holds the names of the columns; UserError without paths.

    Args:
        root: folder that the paths are relative to.
    """
    names = list(next(rows))
    path, *notes = (column(names, wanted) for wanted in (PATHS, *NOTES, WHITE))
    if path is None:
        raise UserError(f"{spec} has the columns {', '.join(map(str, names))}, none of paths; name one of them path")
    builders = [(None if name is None else names.index(name), ColumnBuilder()) for name in notes]
    place = names.index(path)

    def paths() -> Iterator[str]:
        for number, row in enumerate(rows, start=1):
            if not row[place] or not isinstance(row[place], str):
                raise UserError(f"row {number} of {spec} has no path; give it one or take the row out")
            for other, builder in builders:
                builder.add("" if other is None else word_of(row[other]))
            yield written_path(row[place], root)

    keys = Texts(paths())
    if not len(keys):
        raise UserError(f"{spec} has no rows; it takes one image per row")
    columns = [builder.build() for _, builder in builders]
    for found in columns:
        for word in found.words if found is not None else ():
            if not word.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in word):
                raise UserError(f"{spec} is no text of UTF-8, see {word!a}; save it as UTF-8")
    used = [path, *(name for name, found in zip(notes, columns) if found is not None)]
    unused = [str(name) for name in names if name not in used and name not in notes]
    remark = f"columns read: {', '.join(map(str, used))}; passed over: {', '.join(unused)}"
    label, domain, split, white = columns
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


def written_path(path: str, root: str) -> str:
    """Return a path as it is meant, without blanks around it or backslashes of Windows; UserError in Latin-1."""
    path = path.strip().strip("\ufeff").strip()
    if ("\\" not in path and path.isascii()) or os.path.exists(location.join(root, path)):
        return path
    latin = re.sub("[\udc80-\udcff]", lambda byte: chr(ord(byte[0]) - 0xDC00), path)  # bytes that are no UTF-8
    if latin != path and os.path.exists(location.join(root, latin)):
        raise UserError(f"{latin} is named in Latin-1, by a table that must be UTF-8; save it as UTF-8")
    return path.replace("\\", "/")


def images_among(paths: Iterable[str], *, where: str) -> tuple[list[str], tuple[str, ...]]:
    """Return the paths of images, and a remark on what was passed over, if anything was."""
    images, others = list[str](), Counter[str]()
    for path in paths:
        if location.is_image(path):
            images.append(path)
        else:
            others[location.suffix(path)] += 1
    remarks = passed_over(others)
    if not images:
        raise UserError(
            f"no images in {where}; {''.join(remarks) or 'no files at all'}; read are {' '.join(EXTENSIONS)}"
        )
    return images, remarks
