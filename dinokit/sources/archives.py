"""Many images in few large files: where each lies, found once, kept in a cache, then read by its position.

The cache is the folder DINOKIT_CACHE, or else dinokit in XDG_CACHE_HOME or ~/.cache. An entry is used as long as the
size and the time (or tag) of its file are the same.
"""

import fcntl
import hashlib
import os
import zlib
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np
from jaxtyping import Int8, Int64, Shaped

from dinokit.core.errors import UserError, reason
from dinokit.core.files import write_atomic
from dinokit.core.log import info, warn
from dinokit.images.bad_image import BadImage
from dinokit.sources import location
from dinokit.sources.base import EncodedSource
from dinokit.sources.splits import SPLITS as SPLIT_NAMES
from dinokit.sources.splits import known_splits, split_name
from dinokit.sources.table import (
    DOMAINS,
    LABELS,
    SPLITS,
    Column,
    ColumnBuilder,
    Table,
    Texts,
    column,
    table_of_paths,
)

_LAYOUT = 1  # of an entry of the cache
PLAIN, DEFLATED, OTHER = 0, 8, -1  # how an image is packed; numbers of the zip format

BROKEN = -1  # the size of an entry that stands for what cannot be read
_COLUMNS = ("label", "domain", "split")


@dataclass(frozen=True)
class Index:
    """Where the images of one large file lie."""

    names: Texts  # inside the file
    start: Int64[np.ndarray, "image"]  # bytes from the start of the file
    size: Int64[np.ndarray, "image"]  # bytes there; BROKEN for what stands for the unreadable rest of the file
    whole: Int64[np.ndarray, "image"]  # bytes after unpacking
    packing: Int8[np.ndarray, "image"]
    label: Column | None = None
    domain: Column | None = None
    split: Column | None = None


@dataclass
class IndexBuilder:
    """Collects the images of one large file."""

    names: list[str] = field(default_factory=list)
    places: "array[int]" = field(default_factory=lambda: array("q"))
    labels: ColumnBuilder = field(default_factory=ColumnBuilder)
    domains: ColumnBuilder = field(default_factory=ColumnBuilder)
    splits: ColumnBuilder = field(default_factory=ColumnBuilder)

    def add(self, name: str, start: int, size: int, *, whole: int | None = None, packing: int = PLAIN) -> None:
        """Append an image; what is known of it follows by `note`, in the same order."""
        self.names.append(name)
        self.places.extend((start, size, size if whole is None else whole, packing))

    def note(self, known: Mapping[str, Any]) -> None:
        """Append what is known of the next image, by the recognised names."""
        for names, builder in ((LABELS, self.labels), (DOMAINS, self.domains), (SPLITS, self.splits)):
            name = column(known, names)
            builder.add(None if name is None else known[name])

    def build(self) -> Index:
        """Return the index."""
        start, size, whole, packing = np.array(self.places, dtype=np.int64).reshape(-1, 4).T
        return Index(
            names=Texts(self.names),
            start=start,
            size=size,
            whole=whole,
            packing=packing.astype(np.int8),
            label=self.labels.build(),
            domain=self.domains.build(),
            split=self.splits.build(),
        )


@final
class SegmentSource(EncodedSource):
    """Images inside large files; the keys are FILE/NAME."""

    def __init__(
        self,
        spec: str,
        files: Sequence[str],
        indexes: Sequence[Index],
        table: Table,
        *,
        split: str | None,
        channels: int,
    ) -> None:
        super().__init__(spec, table, split=split, channels=channels)
        self._files = Texts(files)
        self._file = np.repeat(np.arange(len(files), dtype=np.int32), [len(index.names) for index in indexes])
        self._start = np.concatenate([index.start for index in indexes])
        self._size = np.concatenate([index.size for index in indexes])
        self._whole = np.concatenate([index.whole for index in indexes])
        self._packing = np.concatenate([index.packing for index in indexes])

    def _fetch(self, row: int) -> bytes:
        file, size, whole = self._files[int(self._file[row])], int(self._size[row]), int(self._whole[row])
        if size < 0:
            raise BadImage(f"{os.path.basename(file)} is damaged or cut short here; what follows is lost")
        try:
            data = location.read_part(file, int(self._start[row]), size)
        except OSError as error:
            raise BadImage(f"cannot open {os.path.basename(file)}: {reason(error)}") from error
        if len(data) < size:
            raise BadImage(f"{os.path.basename(file)} is cut short: {len(data)} of {size} bytes are left")
        return data if self._packing[row] == PLAIN else _unpacked(data, int(self._packing[row]), whole)


def table_of_indexes(files: Sequence[str], indexes: Sequence[Index], *, root: str) -> Table:
    """Build the table of several large files.

    Splits are folders below the root, or words of the files' names, such as train-0001.tar. Labels are those of the
    indexes, or else folders inside the files.
    """
    keys = Texts(f"{os.path.basename(file)}/{name}" for file, index in zip(files, indexes) for name in index.names)
    inside = table_of_paths(Texts.concatenate([index.names for index in indexes]))
    split = _repeated([_split_of(os.path.relpath(file, root)) for file in files], indexes)
    split = split or _joined([index.split for index in indexes], indexes)
    return Table(
        keys=keys,
        label=_joined([index.label for index in indexes], indexes) or inside.label,
        domain=_joined([index.domain for index in indexes], indexes),
        split=split or inside.split,
        partial=split is None and inside.partial,
    )


def find_indexes(files: Sequence[str], build: Callable[[str], Index], *, copies: str = "") -> list[Index]:
    """Return the indexes of large files: those in the cache if a file has not changed since, else built and kept.

    Args:
        copies: ending of a file in the cache that the index speaks of; without it the index is built again.
    """
    return [_find_index(file, build, copies) for file in files]


def cached(file: str, ending: str) -> Path:
    """Return where in the cache something about a file is kept."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(os.environ.get("DINOKIT_CACHE") or Path(home) / "dinokit")
    return folder / (hashlib.sha256(os.fsencode(location.absolute(file))).hexdigest()[:32] + ending)


def find_files(spec: str, ending: str) -> tuple[list[str], str]:
    """List the files that a spec stands for (one, a pattern, a folder or prefix of them), and the folder above them.

    Raises:
        UserError: if there are none.
    """
    if location.is_pattern(spec):
        root = location.fixed_folder(spec)
        files = [file for file in location.expand(spec) if location.suffix(file) == ending]
    elif location.suffix(spec) == ending and not os.path.isdir(spec):
        root, files = location.parent(spec), [spec]
    else:
        root = spec
        files = [location.join(spec, name) for name in location.walk(spec) if location.suffix(name) == ending]
    if not files:
        raise UserError(f"no {ending} file fits {spec}")
    return files, root


def _find_index(file: str, build: Callable[[str], Index], copies: str) -> Index:
    version = f"{_LAYOUT} {' '.join(map(str, location.version(file)))}"
    entry = cached(file, ".npz")
    with _alone(entry):  # of several ranks one builds, the others wait and load
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


@contextmanager
def _alone(entry: Path) -> Iterator[None]:
    """Keep other processes from building the same entry, where the disk can lock."""
    with ExitStack() as stack:
        with suppress(OSError):
            entry.parent.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(entry.with_suffix(".lock").open("w"))
            fcntl.lockf(lock, fcntl.LOCK_EX)
        yield


def _unpacked(data: bytes, packing: int, whole: int) -> bytes:
    if packing != DEFLATED:
        raise BadImage("packed or encrypted in a way that is not read here; pack again, with deflate or stored")
    try:
        # no more than the archive announced: a bomb must not fill the memory
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, max(whole, 1))
    except zlib.error as error:
        raise BadImage(f"damaged inside the archive: {error}") from error


def _split_of(path: str) -> str:
    """Return the split that a file's folder or name tells, '' if none."""
    words = path.replace("\\", "/").replace("_", "-").replace(".", "-").replace("/", "-").split("-")
    return next((split_name(word) for word in words if split_name(word) in SPLIT_NAMES), "")


def _repeated(words: Sequence[str], indexes: Sequence[Index]) -> Column | None:
    if "" in words or not known_splits(words):
        return None
    names = tuple(dict.fromkeys(words))
    codes = np.array([names.index(word) for word in words], dtype=np.int32)
    return Column(names, np.repeat(codes, [len(index.names) for index in indexes]))


def _joined(columns: Sequence[Column | None], indexes: Sequence[Index]) -> Column | None:
    """Join the columns of the files into one with one list of words."""
    words = tuple(dict.fromkeys(word for column in columns if column is not None for word in column.words))
    if not words:
        return None
    place = {word: number for number, word in enumerate(words)}
    codes = []
    for one, index in zip(columns, indexes):
        if one is None:
            codes.append(np.full(len(index.names), -1, dtype=np.int32))
        else:
            number = np.array([place[word] for word in one.words] + [-1], dtype=np.int32)  # -1 stays -1
            codes.append(number[one.codes])
    return Column(words, np.concatenate(codes))


def _save(entry: Path, version: str, index: Index) -> None:
    entry.parent.mkdir(parents=True, exist_ok=True)
    parts: dict[str, Any] = {"version": np.array(version)} | _flat("names", index.names)
    parts |= {name: getattr(index, name) for name in ("start", "size", "whole", "packing")}
    for name in _COLUMNS:
        words: Column | None = getattr(index, name)
        if words is not None:
            parts |= {name: words.codes} | _flat(f"{name}_words", Texts(words.words))
    with write_atomic(entry) as temporary, temporary.open("wb") as file:
        np.savez(file, **parts)


def _loaded(entry: Path, version: str) -> Index:
    with np.load(entry, allow_pickle=False) as parts:
        if str(parts["version"]) != version:
            raise ValueError("another version")
        columns: dict[str, Any] = {
            name: Column(tuple(_text(parts, f"{name}_words")), parts[name]) for name in _COLUMNS if name in parts
        }
        numbers: dict[str, Any] = {name: parts[name] for name in ("start", "size", "whole", "packing")}
        return Index(names=_text(parts, "names"), **numbers, **columns)


def _flat(name: str, texts: Texts) -> dict[str, Shaped[np.ndarray, "part"]]:
    return {name: np.frombuffer(texts.joined, dtype=np.uint8), f"{name}_ends": texts.ends}


def _text(parts: Any, name: str) -> Texts:
    return Texts.of_buffers(parts[name].tobytes(), parts[f"{name}_ends"])
