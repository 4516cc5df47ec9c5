"""What is known of the images of a source before one is opened: keys, labels, domains, splits; a million cost little.

Names of columns and splits are recognised here, the same for every kind of source.
"""

import math
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from jaxtyping import Int32, Int64, Shaped

from dinokit.core.errors import UserError
from dinokit.sources.splits import choose_split, known_splits, named_as_splits, split_name

# in any case; of several, the first
PATHS = ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "url")
LABELS = ("label", "class", "class_name", "cls", "category", "fine_label")
DOMAINS = ("domain", "style")
SPLITS = ("split", "subset")


@final
class Texts(Sequence[str]):
    """Many strings in two buffers; a list of a million would be copied page by page into every loader process."""

    def __init__(self, texts: Iterable[str]) -> None:
        ends, joined = array("q"), bytearray()
        for text in texts:
            try:
                joined += text.encode(errors="surrogateescape")
            except UnicodeEncodeError:  # half a letter, which JSON can say; it names no file
                joined += text.encode(errors="replace")
            ends.append(len(joined))
        self.ends: Int64[np.ndarray, "text"] = np.array(ends, dtype=np.int64)
        self.joined = bytes(joined)

    @classmethod
    def of_buffers(cls, joined: bytes, ends: Int64[np.ndarray, "text"]) -> "Texts":
        """Take the two buffers themselves: all texts in one, and where each ends."""
        texts = cls(())
        texts.joined, texts.ends = joined, ends
        return texts

    @classmethod
    def concatenate(cls, parts: Sequence["Texts"]) -> "Texts":
        """Join several into one."""
        starts = np.cumsum([0, *(len(part.joined) for part in parts)])
        ends = [part.ends + start for part, start in zip(parts, starts)]
        return cls.of_buffers(b"".join(part.joined for part in parts), np.concatenate(ends))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: Any) -> Any:
        start = self.ends[index - 1] if index % len(self) else 0
        return self.joined[start : self.ends[index]].decode(errors="surrogateescape")


@dataclass(frozen=True)
class Column:
    """A word for every image, as its place in a short list."""

    words: tuple[str, ...]
    codes: Int32[np.ndarray, "sample"]  # -1 = no word


@final
class ColumnBuilder:
    """Collects the words of a column, one image after the other."""

    def __init__(self, words: Iterable[str] = ()) -> None:
        self._places = {word: place for place, word in enumerate(words)}
        self._codes = array("i")

    def add(self, value: Any) -> None:
        """Append the word of the next image; None, NaN and empty text mean that it has none."""
        word = value if isinstance(value, str) else _word(value)
        self._codes.append(self._places.setdefault(word, len(self._places)) if word else -1)

    def build(self) -> Column | None:
        """Return the column; None if no image has a word."""
        codes = np.array(self._codes, dtype=np.int32)
        return Column(tuple(self._places), codes) if (codes >= 0).any() else None


@dataclass(frozen=True, kw_only=True)
class Table:
    """The images of a source, of all its splits; row i of every column is image i."""

    keys: Texts
    label: Column | None = None
    domain: Column | None = None
    split: Column | None = None
    partial: bool = False  # what has no split is passed over, as a file beside the folders train and val

    def splits(self) -> tuple[str, ...]:
        """Return the names of the splits, the default first; empty unless there are train and another one."""
        return () if self.split is None else known_splits(self.split.words)

    def rows(self, spec: str, split: str | None) -> Int64[np.ndarray, "row"]:
        """Return the rows of a split; None = of the default one, or all where there are no splits.

        Raises:
            UserError: if there is no such split, or an image belongs to none.
        """
        chosen = choose_split(spec, split, self.splits())
        if chosen is None or self.split is None:
            return np.arange(len(self.keys))
        lost = np.flatnonzero(self.split.codes < 0)
        if len(lost) and not self.partial:
            raise UserError(f"{self.keys[int(lost[0])]} of {spec} has no split; give every image one, or none")
        names = np.array([*map(split_name, self.split.words), ""])  # -1 stays without
        return np.flatnonzero(names[self.split.codes] == chosen)

    def labels(self, rows: Int64[np.ndarray, "row"]) -> tuple[tuple[str, ...], Int64[np.ndarray, "row"] | None]:
        """Return the classes, those of all splits, so that a label means the same in each, and the labels of rows."""
        if self.label is None or (self.label.codes[rows] < 0).all():
            return (), None
        used = sorted(set(self.label.words), key=_naturally(self.label.words))
        place = {word: number for number, word in enumerate(used)}
        number = np.array([place[word] for word in self.label.words] + [-1], dtype=np.int64)  # -1 stays -1
        return tuple(used), number[self.label.codes[rows]]

    def domains(self, rows: Int64[np.ndarray, "row"]) -> Shaped[np.ndarray, "row"] | None:
        """Return the names of the domains of rows, '' where unknown."""
        return None if self.domain is None else np.array([*self.domain.words, ""])[self.domain.codes[rows]]


def table_of_paths(paths: Texts) -> Table:
    """Build a table from paths with '/': folders named as splits are splits, the folders below classes.

    What lies beside such folders is in no split. Folders that all paths share are passed over. There are labels if all
    images lie in (two or more) folders.
    """
    if b"/" not in paths.joined:  # quick, for shards of millions
        return Table(keys=paths)
    shared = shared_folder(paths)
    parts = [path[len(shared) :].split("/", 2) for path in paths]
    folders = [part[0] if len(part) > 1 else "" for part in parts]
    splits = named_as_splits(set(folders), where=shared or "the archive")
    if not known_splits(splits):
        return Table(keys=paths, label=_classes(folders))
    inside = set(splits.values())
    classes = [part[1] if len(part) > 2 else "" for part in parts if part[0] in inside]
    known = _classes(classes)
    if known is not None:  # of all images, those beside the splits too
        label = np.full(len(parts), -1, dtype=np.int32)
        label[[folder in inside for folder in folders]] = known.codes
        known = Column(known.words, label)
    split = _column(folder if folder in inside else "" for folder in folders)
    return Table(keys=paths, label=known, split=split, partial=True)


def column(names: Iterable[str], wanted: Sequence[str]) -> str | None:
    """Find the column with the first of the wanted names, in upper or lower case."""
    found = {str(name).strip().lower(): name for name in reversed(list(names))}
    return next((found[name] for name in wanted if name in found), None)


def shared_folder(paths: Iterable[str]) -> str:
    """Return the folder that all paths share, '' or with '/' at the end."""
    shared: list[str] | None = None
    for path in paths:
        folders = path.split("/")[:-1]
        if shared is None:
            shared = folders
        same = next((n for n, (one, two) in enumerate(zip(shared, folders)) if one != two), None)
        shared = shared[: min(len(shared), len(folders)) if same is None else same]
        if not shared:
            return ""
    return "".join(f"{folder}/" for folder in shared or ())


def _word(value: Any) -> str:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else str(value)


def _column(words: Iterable[str]) -> Column | None:
    builder = ColumnBuilder()
    for word in words:
        builder.add(word)
    return builder.build()


def _classes(folders: list[str]) -> Column | None:
    return None if "" in folders or len(set(folders)) < 2 else _column(folders)


def _naturally(words: Iterable[str]) -> Any:
    """Return what sorts labels: as numbers if all are numbers."""
    return (lambda word: (int(word), word)) if all(word.isdecimal() for word in words) else str
