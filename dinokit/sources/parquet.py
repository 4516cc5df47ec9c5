"""Parquet: images inside (the layout of Hugging Face: a column of {bytes, path}, or of bytes), or paths of images.

Parquet is read by groups of rows, so that one image costs a whole group. Images inside are therefore copied once, one
after the other, into a file of the cache, and read from there; it takes the room of the images.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from dinokit.core.errors import UserError, reason
from dinokit.core.files import write_atomic
from dinokit.sources import location
from dinokit.sources.archives import (
    Index,
    IndexBuilder,
    SegmentSource,
    cached,
    find_files,
    find_indexes,
    table_of_indexes,
)
from dinokit.sources.base import Source
from dinokit.sources.files import FileSource
from dinokit.sources.manifest import table_of_rows
from dinokit.sources.table import DOMAINS, LABELS, PATHS, SPLITS, column

SUFFIX = ".parquet"
IMAGES = ("image", "img", "bytes", "image_bytes", "jpg", "jpeg", "png", "webp", "picture", "content")
_COPIES = ".images"  # what a file of copied images ends with
_ROWS = 256  # read at a time


def open_parquet(spec: str, *, split: str | None, channels: int) -> Source:
    """Open a Parquet file, a pattern, or a folder of them.

    Raises:
        UserError: if no column holds images or paths, or the cache has no room for the images.
    """
    files, root = find_files(spec, SUFFIX)
    if _image_column(_schema(files[0])) is None:
        return _open_paths(spec, files, root, split=split, channels=channels)
    indexes = find_indexes(files, _pack, copies=_COPIES)
    if not any(len(index.names) for index in indexes):
        raise UserError(f"{spec} has no rows")
    table = table_of_indexes(files, indexes, root=root)
    packs = [str(cached(file, _COPIES)) for file in files]
    return SegmentSource(spec, packs, indexes, table, split=split, channels=channels)


def _open_paths(spec: str, files: Sequence[str], root: str, *, split: str | None, channels: int) -> Source:
    names = list(_schema(files[0]).names)
    path = column(names, PATHS)
    wanted = [name for name in (path, *(column(names, known) for known in (LABELS, DOMAINS, SPLITS))) if name]

    def rows() -> Iterator[Sequence[Any]]:
        for file in files:
            folder = location.parent(file)
            prefix = "" if folder == root or len(files) == 1 else folder
            for row in _rows(file, wanted):
                yield [location.join(prefix, row[0]) if prefix and isinstance(row[0], str) else row[0], *row[1:]]

    table = table_of_rows(spec, wanted if path else names, rows())
    return FileSource(spec, location.parent(files[0]), table, split=split, channels=channels)


def _pack(file: str) -> Index:
    """Copy the images of a Parquet file into the cache and note where each lies there."""
    schema = _schema(file)
    images = _image_column(schema)
    if images is None:
        raise UserError(f"{file} has no column of images, other files beside it have")
    names = list(schema.names)
    notes = [name for name in (column(names, known) for known in (LABELS, DOMAINS, SPLITS)) if name]
    found, end, pack = IndexBuilder(), 0, cached(file, _COPIES)
    try:
        with write_atomic(pack) as temporary, temporary.open("wb") as out:
            _check_room(file, str(pack.parent))
            for number, (image, *known) in enumerate(_rows(file, [images, *notes])):
                data = (image.get("bytes") if isinstance(image, dict) else image) or b""
                out.write(data)
                found.add(f"{number:06d}", end, len(data))
                found.note(dict(zip(notes, known)))
                end += len(data)
    except OSError as error:
        raise UserError(
            f"cannot copy the images of {file} to {pack.parent}: {reason(error)}; set DINOKIT_CACHE"
        ) from error
    return found.build()


def _check_room(file: str, folder: str) -> None:
    size, free = location.version(file)[0], shutil.disk_usage(folder).free
    if size > free:
        raise UserError(
            f"the images of {file} need {size / 1e9:.1f} GB in the cache {folder}, {free / 1e9:.1f} GB are free; "
            "set DINOKIT_CACHE to a larger disk"
        )


def _rows(file: str, names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Yield the values of some columns, row by row; numbers of classes become their names."""
    with _opened(file) as table:
        words = _class_names(table.schema_arrow)
        for batch in table.iter_batches(batch_size=_ROWS, columns=list(names)):
            parts = [batch.column(batch.schema.get_field_index(name)).to_pylist() for name in names]
            for place, name in enumerate(names):
                if name in words:
                    parts[place] = [words[name].get(value, value) for value in parts[place]]
            yield from zip(*parts)


def _schema(file: str) -> Any:
    with _opened(file) as table:
        return table.schema_arrow


@contextmanager
def _opened(file: str) -> Iterator[Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(f"{file} needs pyarrow: pip install 'dinokit[parquet]'") from error
    with location.open_file(file) as opened:
        try:
            yield pyarrow.parquet.ParquetFile(opened)
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(f"{file} is no whole Parquet file: {' '.join(str(error).split())}") from error


def _image_column(schema: Any) -> str | None:
    """Return the first column of the known names, or else of any name, that holds bytes."""
    from pyarrow import types

    def holds_bytes(kind: Any) -> bool:
        if types.is_struct(kind):
            return bool(kind.get_field_index("bytes") >= 0)
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    names = [field.name for field in schema if holds_bytes(field.type)]
    return column(names, IMAGES) or (names[0] if len(names) == 1 else None)


def _class_names(schema: Any) -> dict[str, dict[int, str]]:
    """Return the names behind the numbers of ClassLabel columns, which Hugging Face keeps in the file's metadata."""
    with suppress(ValueError, TypeError, AttributeError):  # anybody may write what they like there
        about = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = about.get("info", {}).get("features", {})
        named = {name: of["names"] for name, of in features.items() if isinstance(of, dict) and "names" in of}
        return {name: dict(enumerate(names)) for name, names in named.items()}
    return {}
