"""A selection: some images of other sources, with weights and reasons, in one Parquet file. Curation writes it.

    source, split, key, row    which image: of which source (seen from any folder), and its index there
    component                  images that are mixed as one; weight and homogeneous, the same in all its rows, are its
                               shares as in a mixture (`mixture.py`)
    reason                     why it is in; further columns may say more

A row may come several times. Beside the columns stands the fingerprint of every source: while it is the same, images
are found by their index, later by their key. Other programs that write the columns pass the fingerprints over, and then
keys count.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, Shaped

from dinokit.core.files import odd_bytes, utf8, write_atomic
from dinokit.core.messages import UserError, library, line_of, reason
from dinokit.sources import location
from dinokit.sources.base import Source
from dinokit.sources.mixture import Part, mixed
from dinokit.sources.rows import PARQUET, parquet
from dinokit.sources.table import Texts

MARK = b"dinokit.selection"  # of the file's metadata
COLUMNS = ("source", "split", "key", "row", "component", "weight", "homogeneous", "reason")
_EXTRA = "curate"
_GROUP = 1 << 17  # rows that are written at a time


def is_selection(spec: str) -> bool:
    """Tell a selection from other Parquet files."""
    if location.suffix(spec) != PARQUET or location.is_pattern(spec) or location.prefix(spec):
        return False
    if not location.is_remote(spec) and not Path(spec).is_file():
        return False
    with parquet(spec) as file:
        return MARK in (file.schema_arrow.metadata or {}) or set(COLUMNS) <= set(file.schema_arrow.names)


def open_selection(spec: str, *, channels: int, opened: Callable[..., Source]) -> Source:
    """Open the images of a selection, in its order; of several components mixed by their weights.

    Args:
        opened: opens what stands in the column source.

    Raises:
        UserError: if an image is gone from its source, the columns are not those of a selection, or it selects from
            itself.
    """
    with parquet(spec) as file:
        names = file.schema_arrow.names
        lost = [name for name in COLUMNS if name not in names]
        if lost:
            raise UserError(f"{spec} is a selection without the column {lost[0]}; write it again")
        table = file.read(columns=[name for name in COLUMNS if name not in ("key", "reason")])
        about = json.loads((file.schema_arrow.metadata or {}).get(MARK, b'{"sources": []}'))
    if not len(table):
        raise UserError(f"{spec} selects no image; curate again, with a larger size or another threshold")
    prints = {(each["source"], each["split"]): each["fingerprint"] for each in about["sources"]}
    rows, (part, parts) = _numbers(spec, table, "row", "int64"), _shares(spec, table)
    (origin, origins), (split, splits) = _coded(table, "source"), _coded(table, "split")
    if None in origins:
        raise UserError(f"{spec} has rows without a source; name the source of each")
    check_no_circle(spec, map(odd_bytes, origins))
    pairs, which = np.unique(np.stack([origin, split]), axis=1, return_inverse=True)
    which, sources = which.reshape(-1), list[Source]()
    places = np.empty(len(rows), dtype=np.int64)
    for number, (one, other) in enumerate(pairs.T.tolist()):
        mine = np.flatnonzero(which == number)
        source = opened(odd_bytes(origins[one]), split=splits[other], channels=channels)
        print_ = prints.get((origins[one], splits[other]), "")
        places[mine] = located(source, rows[mine], partial(_keys, spec, mine), fingerprint=print_, of=spec)
        sources.append(source)
    found = [_component(spec, np.flatnonzero(part == number), which, places, sources) for number in range(len(parts))]
    return replace(found[0], name=spec) if len(found) == 1 else mixed(spec, found, parts)


def write_selection(path: Path, tables: Iterable[Any], *, fingerprints: Mapping[tuple[str, str | None], str]) -> int:
    """Write a selection and return its number of rows; the file is whole or absent.

    Args:
        tables: of pyarrow, with `COLUMNS` and all with the same others; written as they come.
        fingerprints: of each source and split; where it is empty or missing, images are found by key.

    Raises:
        UserError: if it cannot be written, would replace something else, or selects from what it would replace.
    """
    if path.exists() and not is_selection(str(path)):
        raise UserError(f"{path} holds something else than a selection; give --out a new place")
    check_no_circle(str(path), (source for source, _ in fingerprints))
    arrow, files = library("pyarrow", extra=_EXTRA), library("pyarrow.parquet", extra=_EXTRA)
    number, text = arrow.float64(), arrow.string()
    kinds = dict.fromkeys(COLUMNS, text) | {"row": arrow.int64(), "weight": number, "homogeneous": number}
    told = [
        {"source": utf8(source), "split": split, "fingerprint": print_}
        for (source, split), print_ in fingerprints.items()
    ]
    writer, count = None, 0
    try:
        with write_atomic(path) as temporary:
            for table in tables:
                if writer is None:
                    others = [field for field in table.schema if field.name not in kinds]
                    schema = arrow.schema([*kinds.items(), *others]).with_metadata(
                        {MARK: json.dumps({"sources": told})}
                    )
                    writer = files.ParquetWriter(temporary, schema, compression="zstd")
                writer.write_table(table.select(schema.names).cast(schema), row_group_size=_GROUP)
                count += len(table)
            if writer is None:
                raise UserError(f"nothing is selected; {path} is not written")
            writer.close()
    except OSError as error:
        raise UserError(f"cannot write {path}: {reason(error)}; give --out another place") from error
    return count


def check_no_circle(spec: str, sources: Iterable[str]) -> None:
    """Refuse a selection that selects from itself, be it through others.

    Raises:
        UserError: if it does; names the selection that leads back.
    """
    todo, seen = list(sources), set[str]()
    while todo:
        source = todo.pop()
        if Path(source).exists() and Path(spec).exists() and Path(source).samefile(spec):
            raise UserError(f"{spec} selects from itself, by way of {source}; give each a name of its own")
        if source in seen or not is_selection(source):
            continue
        seen.add(source)
        with parquet(source) as file:
            todo += filter(None, _coded(file.read(columns=["source"]), "source")[1])


def located(
    source: Source,
    rows: Int64[np.ndarray, " image"],
    keys: Callable[[], Texts],
    *,
    fingerprint: str,
    of: str | Path,
) -> Int64[np.ndarray, " image"]:
    """Return where images are in a source now: at their rows if it is what it was, else found by their keys.

    Args:
        rows: that they had when the source had the fingerprint.
        keys: reads the key of each; asked only if the source has changed.
        of: what lists them, for the message.

    Raises:
        UserError: if some are gone; names one and says how many.
    """
    if source.fingerprint == fingerprint:
        outside = rows[(rows < 0) | (rows >= len(source))]
        if len(outside):
            raise UserError(f"{of} asks for image {outside[0]:,} of {source.name}, which has {len(source):,}")
        return rows
    wanted = keys()
    places = finder(source)(wanted)
    gone = np.flatnonzero(places < 0)
    if len(gone):
        raise UserError(
            f"{source.name} shrank: {len(gone):,} of the {len(rows):,} images of {of} are gone, such as "
            f"{wanted[int(gone[0])]}; put them back, or curate what is there"
        )
    return places


def finder(source: Source) -> Callable[[Iterable[str]], Int64[np.ndarray, " key"]]:
    """Read the keys of a source once; what is returned finds the first image with each key, -1 where there is none."""
    theirs = hashed(utf8(source.key(each)) for each in range(len(source)))
    order = np.argsort(theirs, kind="stable")
    ordered = theirs[order]

    def find(keys: Iterable[str]) -> Int64[np.ndarray, " key"]:
        ours = hashed(keys)
        found = order[np.minimum(np.searchsorted(ordered, ours), len(ordered) - 1)]
        return np.where(theirs[found] == ours, found, -1)

    return find


def hashed(keys: Iterable[str]) -> Int64[np.ndarray, " key"]:
    """Return 64 bits of each text, the same within a process: a set of a hundred million texts would not fit."""
    return np.fromiter(map(hash, keys), dtype=np.int64)


def texts(column: Any) -> Texts:
    """Return a column of pyarrow's texts in two buffers; no text becomes an object of Python."""
    parts = []
    for chunk in filter(len, column.cast("string").chunks):
        _, ends, letters = chunk.buffers()
        cuts = np.frombuffer(ends, dtype=np.int32)[chunk.offset : chunk.offset + len(chunk) + 1].astype(np.int64)
        joined = b"" if letters is None else letters[int(cuts[0]) : int(cuts[-1])].to_pybytes()
        parts.append(Texts.of_buffers(joined, cuts[1:] - cuts[0]))
    return Texts.concatenate(parts) if parts else Texts(())


def _component(
    spec: str,
    rows: Int64[np.ndarray, " row"],
    which: Int64[np.ndarray, " image"],
    places: Int64[np.ndarray, " image"],
    sources: list[Source],
) -> Source:
    """Return the images of some rows, in their order, as one source without shares.

    Args:
        which: of the sources, for all rows of the selection.
        places: in that source.
    """
    numbers, own = np.unique(which[rows], return_inverse=True)
    if len(numbers) == 1:
        return sources[int(numbers[0])].subset(places[rows])
    each = [sources[number].subset(places[rows[own == order]]) for order, number in enumerate(numbers.tolist())]
    together = mixed(spec, each, [Part(source.name, 1.0, 0.0) for source in each])
    return together.subset(np.argsort(np.argsort(own, kind="stable"), kind="stable"))


def _shares(spec: str, table: Any) -> tuple[Int64[np.ndarray, " image"], list[Part]]:
    """Return the component of each row, and the components."""
    codes, names = _coded(table, "component")
    shares = np.stack([_numbers(spec, table, name, "double") for name in ("weight", "homogeneous")])  # [2, image]
    parts = []
    for number, name in enumerate(names):
        own = np.unique(shares[:, codes == number], axis=1)
        if own.shape[1] != 1 or not np.isfinite(own).all() or (own < 0).any():
            raise UserError(
                f"the rows of {name} in {spec} have no common weight and homogeneous from 0 on; give them one"
            )
        parts.append(Part(str(name), *own[:, 0].tolist()))
    return codes, parts


def _coded(table: Any, name: str) -> tuple[Int64[np.ndarray, " image"], list[Any]]:
    """Return a column as places in the list of its values, which are in the order in which they come; null is one."""
    found = table[name].cast("string").dictionary_encode(null_encoding="encode").combine_chunks()
    return found.indices.to_numpy().astype(np.int64), found.dictionary.to_pylist()


def _numbers(spec: str, table: Any, name: str, kind: str) -> Shaped[np.ndarray, " image"]:
    """Return a column of numbers, whatever type another program gave it."""
    arrow = library("pyarrow", extra=_EXTRA)
    try:
        found = table[name].cast(kind)
    except arrow.ArrowException as error:
        raise UserError(f"{spec}: the column {name} holds {table[name].type}: {line_of(error)}") from error
    if found.null_count:
        raise UserError(f"{spec}: the column {name} is empty in {found.null_count:,} rows; give each a number")
    numbers: Shaped[np.ndarray, " image"] = found.to_numpy()
    return numbers


def _keys(spec: str, rows: Int64[np.ndarray, " row"]) -> Texts:
    with parquet(spec) as file:
        return texts(file.read(columns=["key"])["key"].take(rows))
