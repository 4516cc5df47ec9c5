"""Images in rows: Parquet files, and data sets of Hugging Face `datasets`, of the hub or in a folder of this machine.

Parquet holds images (the layout of Hugging Face: a column of {bytes, path}, or of bytes), or paths of images. It is
read by groups of rows, so that one image costs a whole group. Images inside are therefore copied once, one after the
other, into a file of the cache, and read from there; it takes the room of the images.

`hf:NAMESPACE/NAME[/CONFIG]`, or `hf:FOLDER`, written by save_to_disk or readable by load_dataset: the library keeps the
data in memory-mapped files, so that reading one image costs no more than that image.
"""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from dinokit.core.files import utf8, write_atomic
from dinokit.core.hub import fetching
from dinokit.core.messages import BadImage, UserError, library, line_of, reason
from dinokit.sources import location
from dinokit.sources.archives import DENSEST, GONE, LARGEST, Index, IndexBuilder, cached, find_files, open_archives
from dinokit.sources.base import Source, from_table
from dinokit.sources.files import open_files, table_of_rows
from dinokit.sources.table import NOTES, PATHS, WHITE, Table, Texts, column, column_of, word_of

PARQUET, HUB = ".parquet", "hf:"
_IMAGES = ("image", "img", "bytes", "image_bytes", "jpg", "jpeg", "png", "webp", "picture", "content")
_COPIES = ".images"  # what a file of copied images ends with
_ROWS = 256  # read at a time


def open_parquet(spec: str, *, split: str | None, channels: int) -> Source:
    """Open a Parquet file, a pattern, or a folder of them, with a column of images or of paths."""
    files, root = find_files(spec, PARQUET)
    with parquet(files[0]) as table:
        names, images = list(table.schema_arrow.names), _image_column(table.schema_arrow)
    some = [row[0] for row in islice(_rows(files[0], [images]), _ROWS)] if images else []
    by_path = bool(some) and all(isinstance(each, dict) and each["bytes"] is None and each.get("path") for each in some)
    if images and not by_path:
        return open_archives(spec, split=split, channels=channels, ending=PARQUET, build=_pack, copies=_COPIES)
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


def open_hub(spec: str, *, split: str | None, channels: int) -> Source:
    """Open a data set of the hub or of a folder; the keys are SPLIT/ROW."""
    datasets = library("datasets", extra="hf")
    name = spec.removeprefix(HUB)
    folder = os.path.expanduser(name)
    local = os.path.exists(folder)
    location.check_reachable(folder)
    if not local and (name.startswith((".", "/", "~")) or not name):
        raise UserError(f"no folder {name or '(nothing)'}; give hf:NAMESPACE/NAME or hf:FOLDER")
    is_saved = any(os.path.exists(os.path.join(folder, file)) for file in ("dataset_dict.json", "state.json"))
    with fetching(spec, local=local, instead="put its files into a folder, give hf:FOLDER"):
        if is_saved:
            loaded = datasets.load_from_disk(folder)
        elif local:
            loaded = datasets.load_dataset(folder)
        else:
            loaded = datasets.load_dataset("/".join(name.split("/")[:2]), "/".join(name.split("/")[2:]) or None)
    parts = dict(loaded) if isinstance(loaded, dict) else {"all": loaded}
    first = next(iter(parts.values()))
    images = [name for name, kind in first.features.items() if isinstance(kind, datasets.Image)]
    chosen = column(images, _IMAGES) or next(iter(images), None) or _image_column(first.features.arrow_schema)
    if chosen is None:
        raise UserError(f"{spec} has the columns {', '.join(first.column_names)}, none of images")
    keys = Texts(f"{name}/{row:06d}" for name, part in parts.items() for row in range(len(part)))
    if not len(keys):
        raise UserError(f"{spec} has no rows")
    label, domain = (
        column_of(word for part in parts.values() for word in _words(part, wanted)) for wanted in NOTES[:2]
    )
    split_names = column_of(name for name, part in parts.items() for _ in range(len(part)))
    rows = [part.select_columns([chosen]) for part in parts.values()]
    if images:  # ask for the encoded image, not for pixels
        rows = [part.cast_column(chosen, datasets.Image(decode=False)) for part in rows]
    table = Table(keys=keys, label=label, domain=domain, split=split_names)
    return from_table(spec, table, partial(fetch_row, rows), split=split, channels=channels)


def fetch_row(parts: Sequence[Any], row: int) -> bytes:
    """Read an image of the splits of a data set, each of the one column of images: inside it, or by its path."""
    ends = np.cumsum([len(part) for part in parts])
    part = int(np.searchsorted(ends, row, side="right"))
    try:
        (found,) = parts[part][row - int(ends[part])].values()
        if isinstance(found, dict) and found.get("bytes") is None and found.get("path"):
            return location.read(found["path"])
    except (OSError, ValueError) as error:  # what pyarrow says of damage is a ValueError
        raise BadImage(f"cannot open: {line_of(error)}") from error
    return bytes((found.get("bytes") if isinstance(found, dict) else found) or b"")


def _words(part: Any, wanted: Sequence[str]) -> list[str]:
    """Return the words of a column of a split; those of a ClassLabel are its names."""
    name = column(part.column_names, wanted)
    if name is None:
        return [""] * len(part)
    names = getattr(part.features[name], "names", None)
    return [word_of(value) if names is None else _class_of(names, value) or "" for value in part[name][:]]


def _image_column(schema: Any) -> str | None:
    """Return the first column of the known names, or else of any name, that holds bytes."""
    from pyarrow import types

    names = []
    for name, kind in zip(schema.names, schema.types):
        of_bytes = types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)
        if of_bytes or (types.is_struct(kind) and kind.get_field_index("bytes") >= 0):
            names.append(name)
    return column(names, _IMAGES) or (names[0] if len(names) == 1 else None)


def _class_of(names: Sequence[str], number: Any) -> Any:
    """Return the name behind the number of a ClassLabel of Hugging Face; -1 there means that there is no label."""
    return names[number] if isinstance(number, int) and 0 <= number < len(names) else None


def _pack(file: str) -> Index:
    """Copy the images of a Parquet file into the cache and note where each lies there."""
    with parquet(file) as table:
        names, images = list(table.schema_arrow.names), _image_column(table.schema_arrow)
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
    with parquet(file) as table:
        classes: dict[str, list[str]] = {}
        with suppress(ValueError, TypeError, AttributeError):  # where Hugging Face keeps them, anybody may write
            about = json.loads((table.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
            features = about.get("info", {}).get("features", {})
            classes = {
                name: list(of["names"]) for name, of in features.items() if isinstance(of, dict) and "names" in of
            }
        for batch in table.iter_batches(batch_size=_ROWS, columns=list(names)):
            parts = [batch.column(batch.schema.get_field_index(name)).to_pylist() for name in names]
            for place, name in enumerate(names):
                if name in classes:
                    parts[place] = [_class_of(classes[name], value) for value in parts[place]]
            yield from zip(*parts)


@contextmanager
def parquet(file: str) -> Iterator[Any]:
    """Open a Parquet file.

    Raises:
        UserError: if it is damaged, or looks like a bomb.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(f"{file} needs pyarrow: pip install 'dinokit[parquet]'") from error
    with location.open_file(file) as opened:
        try:
            # as pyarrow's own file: its threads let go of one of Python's when they like, and where that is after the
            # end of the program they abort it (1 of 25 reads on a busy machine, pyarrow 26); a name of odd bytes stays
            own = not location.is_remote(file) and utf8(file) == file
            table = pyarrow.parquet.ParquetFile(pyarrow.OSFile(file) if own else opened)
            groups = [table.metadata.row_group(number) for number in range(table.metadata.num_row_groups)]
            for part in (group.column(place) for group in groups for place in range(group.num_columns)):
                if part.total_uncompressed_size > max(LARGEST, DENSEST * part.total_compressed_size):
                    raise UserError(f"{file} says that it unpacks to {DENSEST} times its size: taken for a bomb")
            yield table
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(f"{file} is no whole Parquet file: {' '.join(str(error).split())}") from error
