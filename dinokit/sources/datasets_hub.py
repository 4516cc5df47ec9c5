"""Data sets of Hugging Face `datasets`: of the hub, or in a folder of this machine.

`hf:NAMESPACE/NAME[/CONFIG]`, or `hf:FOLDER`, written by save_to_disk or readable by load_dataset. The library keeps the
data in memory-mapped files, so that reading one image costs no more than that image.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dinokit.core.errors import UserError
from dinokit.core.hub import fetching, library, line_of
from dinokit.images.decode import BadImage
from dinokit.sources import location
from dinokit.sources.base import Source, from_table
from dinokit.sources.folders import check_reachable
from dinokit.sources.parquet import IMAGES, class_of, image_column
from dinokit.sources.table import NOTES, Column, ColumnBuilder, Table, Texts, column, column_of, word_of

PREFIX = "hf:"


@dataclass(frozen=True)
class Rows:
    """The rows of all splits of a data set."""

    parts: Sequence[Any]  # each of the one column of images

    def fetch(self, row: int) -> bytes:
        """Read an image, inside the data set or by its path.

        Raises:
            BadImage: if it cannot be had.
        """
        ends = np.cumsum([len(part) for part in self.parts])
        part = int(np.searchsorted(ends, row, side="right"))
        try:
            (found,) = self.parts[part][row - int(ends[part])].values()
            if isinstance(found, dict) and found.get("bytes") is None and found.get("path"):
                return location.read(found["path"])
        except (OSError, ValueError) as error:  # what pyarrow says of damage is a ValueError
            raise BadImage(f"cannot open: {line_of(error)}") from error
        return bytes((found.get("bytes") if isinstance(found, dict) else found) or b"")


def open_hub(spec: str, *, split: str | None, channels: int) -> Source:
    """Open a data set; the keys are SPLIT/ROW.

    Raises:
        UserError: if it does not exist, the hub cannot be reached, or no column holds images.
    """
    datasets = library("datasets", extra="hf")
    parts = _load(spec)
    first = next(iter(parts.values()))
    images = [name for name, kind in first.features.items() if isinstance(kind, datasets.Image)]
    chosen = column(images, IMAGES) or next(iter(images), None) or image_column(first.features.arrow_schema)
    if chosen is None:
        raise UserError(f"{spec} has the columns {', '.join(first.column_names)}, none of images")
    keys = Texts(f"{name}/{row:06d}" for name, part in parts.items() for row in range(len(part)))
    if not len(keys):
        raise UserError(f"{spec} has no rows")
    label, domain = (_column(parts, wanted) for wanted in NOTES[:2])
    split_names = column_of(name for name, part in parts.items() for _ in range(len(part)))
    rows = [part.select_columns([chosen]) for part in parts.values()]
    if images:  # ask for the encoded image, not for pixels
        rows = [part.cast_column(chosen, datasets.Image(decode=False)) for part in rows]
    table = Table(keys=keys, label=label, domain=domain, split=split_names)
    return from_table(spec, table, Rows(rows).fetch, split=split, channels=channels)


def _load(spec: str) -> dict[str, Any]:
    datasets = library("datasets", extra="hf")
    name = spec.removeprefix(PREFIX)
    folder = os.path.expanduser(name)
    local = os.path.exists(folder)
    check_reachable(folder)
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
    return dict(loaded) if isinstance(loaded, dict) else {"all": loaded}


def _column(parts: Mapping[str, Any], wanted: tuple[str, ...]) -> Column | None:
    """Return the words of a column in all splits; those of a ClassLabel are its names."""
    builder = ColumnBuilder()
    for part in parts.values():
        name = column(part.column_names, wanted)
        names = getattr(part.features[name], "names", None) if name else None
        for value in part[name][:] if name else [None] * len(part):
            builder.add(word_of(value) if names is None else class_of(names, value) or "")
    return builder.build()
