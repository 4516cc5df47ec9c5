"""Many images in few large files: where each lies, found once, kept in a cache, then read by its position.

The cache is the folder DINOKIT_CACHE, or else dinokit in XDG_CACHE_HOME or ~/.cache. An entry is used as long as the
size and the time (or tag) of its file are the same.
"""

import hashlib
import json
import os
import re
import zlib
from array import array
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32, Int64

from dinokit.core.files import cache_folder, write_atomic
from dinokit.core.lock import lock as locked
from dinokit.core.messages import BadImage, UserError, info, reason, warn
from dinokit.sources import location
from dinokit.sources.base import Source, from_table
from dinokit.sources.location import EXTENSIONS, SPLITS, known_splits, split_name
from dinokit.sources.table import (
    NOTES,
    Column,
    ColumnBuilder,
    Table,
    Texts,
    column,
    passed_over,
    table_of_paths,
    word_of,
)

_LAYOUT = 2  # of an entry of the cache
PLAIN, DEFLATED, OTHER = 0, 8, -1  # how an image is packed; numbers of the zip format
BROKEN, GONE = -1, -2  # sizes of entries that stand for the unreadable rest of a file, and for an image elsewhere
_START, _SIZE, _WHOLE, _PACKING = range(4)

# What says that it unpacks to more than both is taken for a bomb: bytes, and times its packed size.
LARGEST, DENSEST = 1 << 26, 100


@dataclass(frozen=True)
class Index:
    """Where the images of one large file lie."""

    names: Texts  # inside the file
    places: Int64[np.ndarray, "image 4"]  # first byte, bytes there, bytes after unpacking, packing
    notes: tuple[Column | None, ...]  # label, domain, split
    others: Mapping[str, int]  # ending of what is no image -> how many


@dataclass
class IndexBuilder:
    """Collects the images of one large file."""

    names: list[str] = field(default_factory=list)
    places: "array[int]" = field(default_factory=lambda: array("q"))
    notes: tuple[ColumnBuilder, ...] = field(default_factory=lambda: tuple(ColumnBuilder() for _ in NOTES))
    others: Counter[str] = field(default_factory=Counter)

    def add(
        self,
        name: str,
        start: int,
        size: int,
        *,
        whole: int | None = None,
        packing: int = PLAIN,
        known: Mapping[Any, Any] | None = None,
    ) -> None:
        """Append an image, and what is known of it by the names of columns."""
        self.names.append(name)
        self.places.extend((start, size, size if whole is None else whole, packing))
        for wanted, builder in zip(NOTES, self.notes):
            builder.add(word_of(known.get(column(known, wanted))) if known else "")

    def build(self) -> Index:
        """Return the index."""
        places = np.array(self.places, dtype=np.int64).reshape(-1, 4)
        return Index(Texts(self.names), places, tuple(builder.build() for builder in self.notes), self.others)


@dataclass(frozen=True)
class Parts:
    """Images inside large files."""

    files: Texts
    file: Int32[np.ndarray, "image"]  # place in `files`
    places: Int64[np.ndarray, "image 4"]

    def fetch(self, row: int) -> bytes:
        """Read an image, and unpack it to no more than was announced; BadImage if it is damaged or a bomb."""
        file, (start, size, whole, packing) = self.files[int(self.file[row])], self.places[row].tolist()
        name = os.path.basename(file)
        if size == GONE:
            raise BadImage("the row holds no image, and the file that it names cannot be read")
        if size < 0:
            raise BadImage(f"{name} is damaged or cut short here; what follows is lost")
        try:
            data = location.read_part(file, start, size)
        except OSError as error:
            raise BadImage(f"cannot open {name}: {reason(error)}") from error
        if len(data) < size:
            raise BadImage(f"{name} is cut short: {len(data)} of {size} bytes are left")
        if packing == PLAIN:
            return data
        if packing != DEFLATED:
            raise BadImage("packed or encrypted in a way that is not read here; pack again, with deflate or stored")
        if whole > max(LARGEST, DENSEST * size):
            raise BadImage(f"{size:,} bytes that unpack to {whole:,}: taken for a bomb; store it without packing")
        try:
            return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, max(whole, 1))
        except zlib.error as error:
            raise BadImage(f"damaged inside the archive: {error}") from error


def open_archives(
    spec: str, *, split: str | None, channels: int, ending: str, build: Callable[[str], Index], copies: str = ""
) -> Source:
    """Open a large file, a pattern, or a folder of them.

    Splits are folders below the root or words of the files' names, such as train-0001.tar, or else what is noted of the
    images, or folders inside the files; labels are what is noted, or else such folders.

    Args:
        ending: of the files.
        build: finds the images of one.
        copies: ending of a file in the cache that the index speaks of; without it the index is built again.
    """
    files, root = find_files(spec, ending)
    indexes = [_indexed(file, build, copies) for file in files]
    if not any((index.places[:, _SIZE] != BROKEN).any() for index in indexes):
        damaged = sum(len(index.names) > 0 for index in indexes)
        seen = f", {damaged} of them damaged or no {ending[1:]}" if damaged else ""
        raise UserError(
            f"no images in {spec}: {len(files)} {ending[1:]} files looked at{seen}; read are {' '.join(EXTENSIONS)}"
        )
    lengths = [len(index.names) for index in indexes]
    others = sum((Counter(index.others) for index in indexes), Counter[str]())
    inside = table_of_paths(
        Texts.concatenate([index.names for index in indexes]), where=spec, remarks=passed_over(others)
    )
    words = [re.split(r"[\\/_.-]", os.path.relpath(file, root)) for file in files]
    named = [next((name for name in map(split_name, each) if name in SPLITS), "") for each in words]
    label, domain, split_noted = (
        Column.concatenate([index.notes[number] for index in indexes], lengths) for number in range(len(NOTES))
    )
    if "" not in named and known_splits(named):
        columns = [Column((name,), np.zeros(length, dtype=np.int32)) for name, length in zip(named, lengths)]
        split_noted = Column.concatenate(columns, lengths)
    table = Table(
        keys=Texts(f"{os.path.basename(file)}/{name}" for file, index in zip(files, indexes) for name in index.names),
        label=label or inside.label,
        domain=domain,
        split=split_noted or inside.split,
        partial=split_noted is None and inside.partial,
        remarks=inside.remarks,
    )
    parts = Parts(
        Texts([str(cached(file, copies)) for file in files] if copies else files),
        np.repeat(np.arange(len(files), dtype=np.int32), lengths),
        np.concatenate([index.places for index in indexes]),
    )
    return from_table(spec, table, parts.fetch, split=split, channels=channels)


def cached(file: str, ending: str) -> Path:
    """Return where in the cache something about a file is kept."""
    return cache_folder() / (hashlib.sha256(os.fsencode(location.absolute(file))).hexdigest()[:32] + ending)


def find_files(spec: str, ending: str) -> tuple[list[str], str]:
    """List the files that a spec stands for (one, a pattern, a folder or prefix of them), and the folder above them."""
    if location.is_pattern(spec):
        root = location.fixed_folder(spec)
        files = [file for file in location.expand(spec) if location.suffix(file) == ending]
    elif location.suffix(spec) == ending and not os.path.isdir(spec):
        root, files = location.parent(spec), [spec]
    else:
        root = spec
        files = [location.join(spec, name) for name in sorted(location.walk(spec)) if location.suffix(name) == ending]
    if not files:
        raise UserError(f"no {ending} file fits {spec}")
    return files, root


def _indexed(file: str, build: Callable[[str], Index], copies: str) -> Index:
    """Return the index of a large file: that in the cache if the file has not changed since, else built and kept."""
    version = f"{_LAYOUT} {' '.join(map(str, location.version(file)))}"
    entry = cached(file, ".npz")
    with ExitStack() as stack:
        with suppress(OSError):  # where the disk can lock, one of several ranks builds, the others wait and load
            entry.parent.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(entry.with_suffix(".lock").open("w"))
            locked(lock, wait=True)
        with suppress(OSError, ValueError, KeyError):  # none, of another version, or damaged: it is built again
            if not copies or cached(file, copies).exists():
                return _loaded(entry, version)
        info(f"indexing {file}, once")
        index = build(file)
        try:
            _save(entry, version, index)
        except OSError as error:
            warn(f"the index of {file} cannot be kept in {entry.parent}: {reason(error)}; set DINOKIT_CACHE")
        return index


def _save(entry: Path, version: str, index: Index) -> None:
    words = [None if note is None else note.words for note in index.notes]
    about = json.dumps({"version": version, "words": words, "others": dict(index.others)})
    parts: dict[str, Any] = {"about": np.array(about), "places": index.places, "ends": index.names.ends}
    parts["names"] = np.frombuffer(index.names.joined, dtype=np.uint8)
    parts |= {f"codes{number}": note.codes for number, note in enumerate(index.notes) if note is not None}
    with write_atomic(entry) as temporary, temporary.open("wb") as file:
        np.savez(file, **parts)


def _loaded(entry: Path, version: str) -> Index:
    with np.load(entry, allow_pickle=False) as parts:
        about = json.loads(str(parts["about"]))
        if about["version"] != version:
            raise ValueError("another version")
        notes = tuple(
            None if words is None else Column(tuple(words), parts[f"codes{number}"])
            for number, words in enumerate(about["words"])
        )
        names = Texts.of_buffers(parts["names"].tobytes(), parts["ends"])
        return Index(names, parts["places"], notes, about["others"])
