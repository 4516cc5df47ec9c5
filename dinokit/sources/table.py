"""What is known of the images of a source before one is opened: keys, labels, domains, splits; a million cost little.

Names of columns, and what a cell means, are settled here, the same for every kind of source: blanks around a word say
nothing, `0.0` is the class `0`, and `nan` is no class. A list of words is one label that names several classes; a
published set may also leave classes of an image open (`label_of`).
"""

import json
import math
import os
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64

from dinokit.core.messages import UserError
from dinokit.core.order import natural
from dinokit.sources.location import choose_split, known_splits, named_as_splits, split_name

# in any case; of several, the first
PATHS = ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "url")
LABELS = (
    *("label", "class", "class_name", "cls", "category", "fine_label", "classname", "category_name", "label_name"),
    *("labels", "target", "targets", "class_id", "label_id", "category_id", "class_index", "label_index"),
)
DOMAINS = ("domain", "style")
SPLITS = ("split", "subset", "partition")
NOTES = (LABELS, DOMAINS, SPLITS)
WHITE = ("white",)  # of a manifest: what is 1.0 in a file of more than 8 bits

_SHOWN = 5  # endings in one remark
_NOTHING = ("nan", "<na>", "#n/a", "null")  # what programs write where a table has nothing; "none" may be a class


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

    @staticmethod
    def concatenate(parts: Sequence["Column | None"], lengths: Sequence[int]) -> "Column | None":
        """Join the columns of several tables into one with one list of words; None has no word in any row."""
        words = tuple(dict.fromkeys(word for part in parts if part is not None for word in part.words))
        place = {word: number for number, word in enumerate(words)}
        codes = [
            np.full(length, -1) if part is None else np.array([*map(place.__getitem__, part.words), -1])[part.codes]
            for part, length in zip(parts, lengths, strict=True)
        ]
        return Column(words, np.concatenate(codes).astype(np.int32)) if words else None


@final
@dataclass(frozen=True)
class ColumnBuilder:
    """Collects the words of a column, one image after the other."""

    places: dict[str, int] = field(default_factory=dict)
    codes: "array[int]" = field(default_factory=lambda: array("i"))

    def add(self, word: str) -> None:
        """Append the word of the next image, '' if it has none."""
        self.codes.append(self.places.setdefault(word, len(self.places)) if word else -1)

    def build(self) -> Column | None:
        """Return the column; None if no image has a word."""
        return Column(tuple(self.places), np.array(self.codes, dtype=np.int32)) if self.places else None


@dataclass(frozen=True, kw_only=True)
class Table:
    """The images of a source, of all its splits; row i of every column is image i."""

    keys: Texts
    label: Column | None = None
    domain: Column | None = None
    split: Column | None = None
    white: Column | None = None
    partial: bool = False  # what has no split is passed over, as a file beside the folders train and val
    remarks: tuple[str, ...] = ()

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits, the default first; empty unless there are several."""
        return () if self.split is None else known_splits(self.split.words)

    def rows(self, spec: str, split: str | None) -> Int64[np.ndarray, "row"]:
        """Return the rows of a split, or raise UserError; None = of the default one, or all if there are no splits."""
        chosen = choose_split(spec, split, self.splits)
        if chosen is None or self.split is None:
            return np.arange(len(self.keys))
        lost = np.flatnonzero(self.split.codes < 0)
        if len(lost) and not self.partial:
            raise UserError(f"{self.keys[int(lost[0])]} of {spec} has no split; give every image one, or none")
        names = np.array([*map(split_name, self.split.words), ""])  # -1 stays without
        return np.flatnonzero(names[self.split.codes] == chosen)

    def whites(self, spec: str, rows: Int64[np.ndarray, "row"]) -> Float64[np.ndarray, "row"] | None:
        """Return what is white in the images of rows, numbers above 0, NaN where nothing is said; else UserError."""
        if self.white is None:
            return None
        try:
            numbers = np.array([*map(float, self.white.words), np.nan])
        except ValueError as error:
            raise UserError(f"the column white of {spec} holds no numbers: {error}") from error
        if (numbers <= 0).any():
            raise UserError(f"the column white of {spec} holds {numbers.min():g}, expected numbers above 0")
        found: Float64[np.ndarray, "row"] = numbers[self.white.codes[rows]]
        return found

    def labels(self, rows: Int64[np.ndarray, "row"]) -> tuple[tuple[str, ...], Int64[np.ndarray, "row"] | None]:
        """Return the classes, those of all splits, so that a label means the same in each, and the labels of rows."""
        if self.label is None:
            return (), None
        words = self.label.words
        named = [word for word in words if word != "-1"]
        used = sorted(named, key=natural if all(word.isdecimal() for word in named) else None)
        place = {word: number for number, word in enumerate(used)}
        number = np.array([*(place.get(word, -1) for word in words), -1], dtype=np.int64)  # -1 stays -1, as a word too
        found = number[self.label.codes[rows]]
        return ((), None) if (found < 0).all() else (tuple(used), found)


def members(labels: Sequence[str]) -> tuple[tuple[str, ...], Bool[np.ndarray, "label class"]] | None:
    """Return the classes, and which of them each label names; None if each names one, itself."""
    each = [_listed(label) for label in labels]
    if all(len(names) == 1 and not doubtful for names, doubtful in each):
        return None
    classes = tuple(sorted({name for both in each for names in both for name in names}))
    return classes, _among([names for names, _ in each], classes)


def undecided(labels: Sequence[str]) -> Bool[np.ndarray, "label class"]:
    """Return which of the classes of `members` each label leaves open: the image counts neither for nor against one."""
    found = members(labels)
    assert found is not None
    return _among([_listed(label)[1] for label in labels], found[0])


def label_of(names: Sequence[str], doubtful: Sequence[str] = ()) -> str:
    """Return the label of an image of any number of classes, also of none, and of some that it may have."""
    if not doubtful and len(names) > 0:
        return word_of([*names])
    return json.dumps([sorted(names), sorted(doubtful)], ensure_ascii=False)


def _among(each: Sequence[Sequence[str]], classes: Sequence[str]) -> Bool[np.ndarray, "label class"]:
    found = [set(names) for names in each]
    return np.array([[name in names for name in classes] for names in found])


def _listed(label: str) -> tuple[list[str], list[str]]:
    """Return the classes that a label names, and those that it leaves open; of most labels one, itself, and none."""
    if label.startswith(('["', "[[")):
        try:
            found = json.loads(label)
        except ValueError:
            return [label], []
        if len(found) > 1 and _are_words(found):
            return found, []
        if len(found) == 2 and all(isinstance(names, list) and _are_words(names) for names in found):
            return found[0], found[1]
    return [label], []


def _are_words(values: Iterable[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


def column_of(words: Iterable[str]) -> Column | None:
    """Return the column of some words, '' for none."""
    builder = ColumnBuilder()
    for word in words:
        builder.add(word)
    return builder.build()


def table_of_paths(paths: Texts, *, where: str, remarks: tuple[str, ...] = ()) -> Table:
    """Build a table from paths with '/': folders named as splits are splits, the folders below classes.

    What lies beside such folders is in no split. Folders that all paths share are passed over. There are labels if all
    images lie in (two or more) folders.
    """
    if b"/" not in paths.joined:  # quick, for shards of millions
        return Table(keys=paths, remarks=remarks)
    shared = os.path.commonprefix([min(paths), max(paths)]).rpartition("/")[0]  # noqa: RUF071 - cut at a slash
    parts = [path[len(shared) :].lstrip("/").split("/", 2) for path in paths]
    found = named_as_splits({part[0] for part in parts if len(part) > 1}, where=where)
    folders = set(found.values()) if known_splits(found) else set()
    inside = [not folders or (len(part) > 1 and part[0] in folders) for part in parts]
    level = 1 if folders else 0
    classes = [part[level] if len(part) > level + 1 and ours else "" for part, ours in zip(parts, inside)]
    named = {word for word, ours in zip(classes, inside) if ours}
    beside = inside.count(False)
    if beside:
        one = paths[inside.index(False)]
        remarks += (f"{beside:,} images beside the folders {', '.join(found.values())} are passed over, such as {one}",)
    return Table(
        keys=paths,
        label=column_of(classes) if len(named) > 1 and "" not in named else None,
        split=column_of(part[0] if ours else "" for part, ours in zip(parts, inside)) if folders else None,
        partial=bool(folders),
        remarks=remarks,
    )


def passed_over(others: Mapping[str, int]) -> tuple[str, ...]:
    """Return a remark on files that are no images, counted by their endings, if there are any."""
    shown = sorted(others.items(), key=lambda one: -one[1])
    words = [f"{count:,} {ending or 'without an ending'}" for ending, count in shown[:_SHOWN]]
    rest = sum(count for _, count in shown[_SHOWN:])
    return (f"passed over: {', '.join(words)}{f', {rest:,} others' if rest else ''}",) if others else ()


def column(names: Iterable[str], wanted: Sequence[str]) -> str | None:
    """Find the column with the first of the wanted names, in upper or lower case."""
    found = {str(name).strip().lower(): name for name in reversed(list(names))}
    return next((found[name] for name in wanted if name in found), None)


def word_of(value: Any) -> str:
    """Return the word in a cell of a table, '' where it holds none; of a list its words, each once, as JSON."""
    if isinstance(value, list | tuple):
        found = {word_of(each) for each in value if not isinstance(each, list | tuple)} - {"", "-1"}
        return json.dumps(sorted(found), ensure_ascii=False) if len(found) > 1 else "".join(found)
    if value is None or isinstance(value, dict) or (isinstance(value, float) and math.isnan(value)):
        return ""
    text = value.decode(errors="surrogateescape") if isinstance(value, bytes) else str(value)
    word = text.strip().strip("\ufeff").strip()  # a byte-order mark is left where texts were joined
    if word.lower() in _NOTHING:
        return ""
    whole, _, fraction = word.partition(".")  # numbers beside an empty cell are written as 0.0
    return whole if fraction and not fraction.strip("0") and whole.removeprefix("-").isdecimal() else word
