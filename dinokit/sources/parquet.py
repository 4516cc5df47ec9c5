"""Parquet: images inside (the layout of Hugging Face: a column of {bytes, path}, or of bytes), or paths of images.

Parquet is read by groups of rows, so that one image costs a whole group. Images inside are therefore copied once, one
after the other, into a file of the cache, and read from there; it takes the room of the images.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Any

from dinokit.core.errors import UserError, reason
from dinokit.core.files import write_atomic
from dinokit.sources import location
from dinokit.sources.archives import DENSEST, GONE, LARGEST, Index, IndexBuilder, cached, find_files, open_archives
from dinokit.sources.base import Source
from dinokit.sources.files import open_files
from dinokit.sources.manifest import table_of_rows
from dinokit.sources.table import NOTES, PATHS, WHITE, column

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
    with _opened(files[0]) as table:
        names, images = list(table.schema_arrow.names), image_column(table.schema_arrow)
    some = [row[0] for row in islice(_rows(files[0], [images]), _ROWS)] if images else []
    by_path = bool(some) and all(isinstance(each, dict) and each["bytes"] is None and each.get("path") for each in some)
    if images and not by_path:
        return open_archives(spec, split=split, channels=channels, ending=SUFFIX, build=_pack, copies=_COPIES)
    path = images if by_path else column(names, PATHS)
    wanted = [name for name in (path, *(column(names, each) for each in (*NOTES, WHITE))) if name]
    top = root if len(files) > 1 else location.parent(files[0])

    def rows() -> Iterator[Sequence[Any]]:
        yield ["path", *wanted[1:]] if path else names
        for file in files:
            for row in _rows(file, wanted):
                found = row[0].get("path") if isinstance(row[0], dict) else row[0]
                # relative to the folder of its own file
                if isinstance(found, str) and location.parent(file) != top:
                    found = location.join(location.parent(file), found)
                yield [found, *row[1:]]

    return open_files(spec, top, table_of_rows(spec, rows(), root=top), split=split, channels=channels)


def image_column(schema: Any) -> str | None:
    """Return the first column of the known names, or else of any name, that holds bytes."""
    from pyarrow import types

    names = []
    for name, kind in zip(schema.names, schema.types):
        of_bytes = types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)
        if of_bytes or (types.is_struct(kind) and kind.get_field_index("bytes") >= 0):
            names.append(name)
    return column(names, IMAGES) or (names[0] if len(names) == 1 else None)


def class_of(names: Sequence[str], number: Any) -> Any:
    """Return the name behind the number of a ClassLabel of Hugging Face; -1 there means that there is no label."""
    return names[number] if isinstance(number, int) and 0 <= number < len(names) else None


def _pack(file: str) -> Index:
    """Copy the images of a Parquet file into the cache and note where each lies there."""
    with _opened(file) as table:
        names, images = list(table.schema_arrow.names), image_column(table.schema_arrow)
    if images is None:
        raise UserError(f"{file} has no column of images, other files beside it have")
    notes = [name for name in (column(names, known) for known in NOTES) if name]
    found, end, pack = IndexBuilder(), 0, cached(file, _COPIES)
    try:
        with write_atomic(pack) as temporary, temporary.open("wb") as out:
            size, free = location.version(file)[0], shutil.disk_usage(pack.parent).free
            if size > free:
                raise UserError(
                    f"the images of {file} need {size / 1e9:.1f} GB in the cache {pack.parent}, {free / 1e9:.1f} GB "
                    "are free; set DINOKIT_CACHE to a larger disk"
                )
            for number, (image, *known) in enumerate(_rows(file, [images, *notes])):
                data, elsewhere = (image.get("bytes"), image.get("path")) if isinstance(image, dict) else (image, None)
                if data is None and elsewhere:
                    with suppress(OSError, ValueError):
                        data = location.read(location.join(location.parent(file), elsewhere))
                out.write(data or b"")
                size = GONE if data is None and elsewhere else len(data or b"")
                found.add(f"{number:06d}", end, size, known=dict(zip(notes, known)))
                end += max(size, 0)
    except OSError as error:
        raise UserError(
            f"cannot copy the images of {file} to {pack.parent}: {reason(error)}; set DINOKIT_CACHE"
        ) from error
    return found.build()


def _rows(file: str, names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Yield the values of some columns, row by row; numbers of classes become their names."""
    with _opened(file) as table:
        classes = _classes(table.schema_arrow)
        for batch in table.iter_batches(batch_size=_ROWS, columns=list(names)):
            parts = [batch.column(batch.schema.get_field_index(name)).to_pylist() for name in names]
            for place, name in enumerate(names):
                if name in classes:
                    parts[place] = [class_of(classes[name], value) for value in parts[place]]
            yield from zip(*parts)


@contextmanager
def _opened(file: str) -> Iterator[Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(f"{file} needs pyarrow: pip install 'dinokit[parquet]'") from error
    with location.open_file(file) as opened:
        try:
            table = pyarrow.parquet.ParquetFile(opened)
            groups = [table.metadata.row_group(number) for number in range(table.metadata.num_row_groups)]
            for part in (group.column(place) for group in groups for place in range(group.num_columns)):
                if part.total_uncompressed_size > max(LARGEST, DENSEST * part.total_compressed_size):
                    raise UserError(f"{file} says that it unpacks to {DENSEST} times its size: taken for a bomb")
            yield table
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(f"{file} is no whole Parquet file: {' '.join(str(error).split())}") from error


def _classes(schema: Any) -> dict[str, list[str]]:
    """Return the names behind the numbers of ClassLabel columns, which Hugging Face keeps in the file's metadata."""
    with suppress(ValueError, TypeError, AttributeError):  # anybody may write what they like there
        about = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = about.get("info", {}).get("features", {})
        return {name: list(of["names"]) for name, of in features.items() if isinstance(of, dict) and "names" in of}
    return {}
