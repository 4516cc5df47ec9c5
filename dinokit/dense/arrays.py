"""A folder of dense features: an array per image, which is opened without being read.

    dense.json                 of which weights, sampling, precision and images; must be the same for the work to go on
    part-00000/000000012.npy   float16 [rows, columns, dim] of image 12 of the source
    part-00000.parquet         one line per image of the part: its array, where it is, its size, digests
    bad_images.jsonl           the images that could not be read, if there are any

    arrays = Arrays("features")
    arrays.keys[5], arrays[5].shape      # numpy.memmap: what is not looked at is not read

An array is whole or absent. The table of a part is written last and makes it count; until then its lines stand in
.part-00000.jsonl, one as soon as an array is there, so that a kill costs the image at hand. It also holds what could
not be read, so that no image is tried twice.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, final

import numpy
from jaxtyping import Float16

from dinokit.core.files import (
    ODD_BYTES,
    append_jsonl,
    digest,
    odd_bytes,
    read_json,
    read_jsonl,
    write_atomic,
    write_json,
    write_jsonl,
)
from dinokit.core.messages import UserError, library
from dinokit.curation.stored import BAD, EXTRA, opened, stem
from dinokit.sources.base import Unusable

STAMP = "dense.json"
_UNREAD = b"dinokit.unread"  # of a table's metadata
Line = dict[str, Any]


@final
class Arrays:
    """Dense features of the images of a source; array i and line i of the table belong to the same image."""

    def __init__(self, folder: str | Path) -> None:
        """Look at the tables; no array is opened.

        Raises:
            UserError: if the folder holds no dense features, or the work is not finished; says what to do.
        """
        self.folder = Path(folder)
        if not (self.folder / STAMP).is_file():
            raise UserError(f"{folder} holds no dense features (no {STAMP}); make them with dinokit embed --dense")
        self.stamp: dict[str, Any] = read_json(self.folder / STAMP)
        self.table = _table(self.folder)
        if not isinstance(self.stamp, dict) or self.stamp.get("images") != self.table.num_rows:
            raise UserError(f"{folder} is not finished; the same dinokit embed --dense again goes on with it")

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """The key of every image."""
        return tuple(map(odd_bytes, self.table["key"].to_pylist()))

    def __getitem__(self, index: int) -> Float16[numpy.ndarray, "rows columns dim"]:
        """Open the array of an image without reading it.

        Raises:
            UserError: if it is gone or damaged.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(index)  # where a loop over all ends
        line = {name: self.table[name][index % len(self)].as_py() for name in ("file", "rows", "columns")}
        path, expected = self.folder / line["file"], (line["rows"], line["columns"], self.stamp["dim"])
        try:
            found: numpy.ndarray = numpy.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{path} is gone or damaged; the same dinokit embed --dense makes it again") from error
        if found.dtype != numpy.float16 or found.shape != expected:
            raise UserError(
                f"{path} holds {found.dtype} {found.shape}, expected float16 {expected}; delete it and embed"
            )
        return found

    def check(self) -> None:
        """Read all arrays and refuse those that are not what was computed.

        Raises:
            UserError: names the first.
        """
        for index, told in enumerate(self.table["digest"].to_pylist()):
            if digest([self[index]]) != told:
                path = self.folder / self.table["file"][index].as_py()
                raise UserError(f"{path} holds other features than those that were embedded; delete it and embed again")


def name_of(number: int, row: int) -> str:
    """Return where the array of an image lies in the folder."""
    return f"{stem(number)}/{row:09d}.npy"


def log_of(folder: Path, number: int) -> Path:
    """Return where the lines of a part stand until all are there."""
    return folder / f".{stem(number)}.jsonl"


def add_line(folder: Path, number: int, line: Mapping[str, Any]) -> None:
    """Note an image of a part: what `schema` says, or why it could not be read."""
    append_jsonl(log_of(folder, number), line)


def lines_of(folder: Path, number: int) -> list[Line]:
    """Return what is known of the images of a part whose arrays are there, and of those that could not be read."""
    found = {line["row"]: line for line in read_jsonl(log_of(folder, number))}
    path = folder / f"{stem(number)}.parquet"
    if path.exists():
        with opened(path) as file:
            unread = json.loads((file.schema_arrow.metadata or {}).get(_UNREAD, b"[]"))
            found |= {line["row"]: line for line in [*file.read().to_pylist(), *unread]}
    there = (line for line in found.values() if "reason" in line or (folder / line["file"]).is_file())
    return sorted(there, key=lambda line: int(line["row"]))


def write_part(folder: Path, number: int) -> None:
    """Write the table of a part, whose lines are all there, and clear its log away."""
    arrow, tables = library("pyarrow", extra=EXTRA), library("pyarrow.parquet", extra=EXTRA)
    lines = lines_of(folder, number)
    told = {_UNREAD: json.dumps([line for line in lines if "reason" in line]).encode(errors=ODD_BYTES)}
    table = arrow.Table.from_pylist(
        [line for line in lines if "reason" not in line], schema=schema().with_metadata(told)
    )
    with write_atomic(folder / f"{stem(number)}.parquet") as temporary:
        tables.write_table(table, temporary, compression="zstd")
    log_of(folder, number).unlink(missing_ok=True)


def finish(folder: Path, parts: Sequence[int]) -> None:
    """Say in the stamp that nothing is missing, and list what could not be read."""
    lines = [line for number in parts for line in lines_of(folder, number)]
    unread = [Unusable(line["row"], line["key"], line["reason"]) for line in lines if "reason" in line]
    if unread:
        write_jsonl(folder / BAD, map(asdict, unread))
    counts = {"images": len(lines) - len(unread), "unreadable": len(unread)}
    write_json(folder / STAMP, {**read_json(folder / STAMP), **counts})


def schema() -> Any:
    """Return the columns of a table; where nothing is known there is null."""
    arrow = library("pyarrow", extra=EXTRA)
    text, count = arrow.string(), arrow.int32()
    return arrow.schema(
        {
            "row": arrow.int64(),  # index of the image in the source
            "key": text,
            "file": text,  # its array, seen from the folder
            "rows": count,
            "columns": count,
            "digest": text,  # BLAKE2b of 128 bits of the array's numbers
            "source": text,  # means the same from any folder
            "split": text,
            "width": count,  # pixels, upright
            "height": count,
            "bytes_digest": text,  # BLAKE2b of 128 bits of the file, or of the pixels where there is none
            "class": text,
        }
    )


def _table(folder: Path) -> Any:
    arrow = library("pyarrow", extra=EXTRA)

    def read() -> Iterator[Any]:
        for path in sorted(folder.glob("part-*.parquet")):
            with opened(path) as file:
                if not file.schema_arrow.equals(schema()):
                    raise UserError(f"{path} has other columns than dinokit embed --dense wrote; take it out")
                yield file.read()

    return arrow.concat_tables([schema().empty_table(), *read()])
