"""Data sets of Hugging Face `datasets`: of the hub, or in a folder of this machine.

`hf:NAMESPACE/NAME[/CONFIG]`, or `hf:FOLDER`, written by save_to_disk or readable by load_dataset. The library keeps the
data in memory-mapped files, so that reading one image costs no more than that image.
"""

import os
from collections.abc import Mapping
from typing import Any, final

import numpy as np

from dinokit.core.errors import UserError
from dinokit.core.hub import fetching, library, line_of
from dinokit.images.bad_image import BadImage
from dinokit.sources import location
from dinokit.sources.base import EncodedSource, Source
from dinokit.sources.parquet import IMAGES
from dinokit.sources.table import DOMAINS, LABELS, Column, ColumnBuilder, Table, Texts, column

PREFIX = "hf:"


@final
class HubSource(EncodedSource):
    """The rows of all splits of a data set; the keys are SPLIT/ROW."""

    def __init__(
        self, spec: str, parts: Mapping[str, Any], images: str, table: Table, *, split: str | None, channels: int
    ) -> None:
        super().__init__(spec, table, split=split, channels=channels)
        self._parts = [part.select_columns([images]) for part in parts.values()]
        self._ends = np.cumsum([len(part) for part in self._parts])
        self._images = images

    def _fetch(self, row: int) -> bytes:
        part = int(np.searchsorted(self._ends, row, side="right"))
        try:
            found = self._parts[part][row - int(self._ends[part])][self._images]
            if isinstance(found, dict) and found.get("bytes") is None and found.get("path"):
                return location.read(found["path"])
        except (OSError, ValueError) as error:  # what pyarrow says of damage is a ValueError
            raise BadImage(f"cannot open: {line_of(error)}") from error
        data = found.get("bytes") if isinstance(found, dict) else found
        return bytes(data or b"")


def open_hub(spec: str, *, split: str | None, channels: int) -> Source:
    """Open a data set.

    Raises:
        UserError: if it does not exist, the hub cannot be reached, or no column holds images.
    """
    parts = _load(spec)
    first = next(iter(parts.values()))
    images = _image_column(first.features)
    if images is None:
        raise UserError(f"{spec} has the columns {', '.join(first.column_names)}, none of images")
    parts = {name: _encoded(part, images) for name, part in parts.items()}
    keys = Texts(f"{name}/{row:06d}" for name, part in parts.items() for row in range(len(part)))
    if not len(keys):
        raise UserError(f"{spec} has no rows")
    splits = ColumnBuilder()
    for name, part in parts.items():
        for _ in range(len(part)):
            splits.add(name)
    table = Table(keys=keys, label=_column(parts, LABELS), domain=_column(parts, DOMAINS), split=splits.build())
    return HubSource(spec, parts, images, table, split=split, channels=channels)


def _load(spec: str) -> dict[str, Any]:
    datasets = library("datasets", extra="hf")
    name = spec.removeprefix(PREFIX)
    folder = os.path.expanduser(name)
    local = os.path.exists(folder)
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


def _encoded(part: Any, images: str) -> Any:
    """Ask for the encoded image, not for pixels."""
    datasets = library("datasets", extra="hf")
    if isinstance(part.features[images], datasets.Image):
        return part.cast_column(images, datasets.Image(decode=False))
    return part


def _image_column(features: Mapping[str, Any]) -> str | None:
    datasets = library("datasets", extra="hf")

    def holds_bytes(kind: Any) -> bool:
        return (isinstance(kind, Mapping) and "bytes" in kind) or getattr(kind, "dtype", "") in (
            "binary",
            "large_binary",
        )

    names = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    names = names or [name for name, kind in features.items() if holds_bytes(kind)]
    return column(names, IMAGES) or (names[0] if names else None)


def _column(parts: Mapping[str, Any], wanted: tuple[str, ...]) -> Column | None:
    builder = ColumnBuilder()
    for part in parts.values():
        name = column(part.column_names, wanted)
        values = [None] * len(part) if name is None else part[name][:]
        words = getattr(part.features[name], "names", None) if name else None
        for value in values:
            builder.add(words[value] if words and isinstance(value, int) and value >= 0 else value)
    return builder.build()
