"""Images that are files of their own: a folder, a glob pattern, a list; on this machine or on a server."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from dinokit.core.errors import UserError, reason
from dinokit.images.decode import EXTENSIONS, BadImage
from dinokit.sources import location
from dinokit.sources.base import Source, from_table
from dinokit.sources.folders import existing_folder, sub_folders, walk
from dinokit.sources.splits import choose_split, folder_splits
from dinokit.sources.table import Column, Table, Texts, column_of, table_of_paths, word_of

_SHOWN = 5  # endings in one remark
# a path, and what follows it in its line
_FOLLOWED = re.compile(rf"(.*?(?:{'|'.join(map(re.escape, EXTENSIONS))}))[\s,;]+(.+)", re.IGNORECASE)


@dataclass(frozen=True)
class Files:
    """One image per file; the keys are the paths, relative to a root or absolute."""

    root: str
    keys: Texts

    def fetch(self, row: int) -> bytes:
        """Read a file.

        Raises:
            BadImage: if it was deleted, is unreadable, or a disk or a server fails: that is one image.
        """
        try:
            return location.read(location.join(self.root, self.keys[row]))
        except (OSError, ValueError) as error:
            why = reason(error) if isinstance(error, OSError) else str(error)
            raise BadImage(f"cannot open: {why}") from error


def open_files(spec: str, root: str, table: Table, *, split: str | None, channels: int) -> Source:
    """Open the files of a table, whose keys are paths relative to a root, or absolute, or URLs."""
    return from_table(spec, table, Files(root, table.keys).fetch, split=split, channels=channels)


def open_folder(spec: str, *, split: str | None, channels: int) -> Source:
    """Open a folder with all its sub-folders, sorted by path; hidden files are left out.

    Folders named as splits are splits; if all images lie in (two or more) sub-folders, these are the labels.
    """
    top = existing_folder(spec)
    splits = folder_splits(top)
    chosen = choose_split(spec, split, tuple(splits)) if splits else None
    root = splits[chosen] if chosen else top
    paths, remarks = images_among(walk(root), where=str(root))
    paths = sorted(paths)
    if not chosen:
        table = table_of_paths(Texts(paths), where=spec, remarks=remarks)
        return open_files(spec, str(root), table, split=split, channels=channels)
    # the classes of all splits, so that a label means the same in train and in test
    tops = [path.split("/", 1)[0] for path in paths]
    classes = tuple(sorted(set(tops).union(*map(sub_folders, splits.values()))))
    label = None
    if all("/" in path for path in paths) and len(classes) > 1:
        place = {name: number for number, name in enumerate(classes)}
        label = Column(classes, np.array([place[top] for top in tops], dtype=np.int32))
    table = Table(keys=Texts(paths), label=label, remarks=remarks)
    return open_files(spec, str(root), table, split=None, channels=channels)


def open_several(spec: str, *, split: str | None, channels: int) -> Source:
    """Open what fits a pattern, or lies below a URL such as s3://bucket/prefix; folders are splits and labels."""
    if location.is_pattern(spec):
        root, where = location.fixed_folder(spec), f"the pattern {spec}"
        start = f"{root.rstrip('/')}/"
        paths = [path.removeprefix(start) for path in location.expand(spec)]
    else:
        root, where, paths = spec, spec, location.walk(spec)
    images, remarks = images_among(paths, where=where)
    table = table_of_paths(Texts(images), where=spec, remarks=remarks)
    return open_files(spec, root, table, split=split, channels=channels)


def open_list(spec: str, *, split: str | None, channels: int) -> Source:
    """Open a text file with one path or URL per line, relative to the folder in which it lies, perhaps with its label.

    Raises:
        UserError: if more than a label follows a path, or labels follow some of the paths only.
    """
    root, found = location.parent(spec), list[tuple[str, str]]()
    for number, line in enumerate(location.lines(spec), start=1):
        path, word = line.strip(), ""
        followed = None if path.lower().endswith(EXTENSIONS) else _FOLLOWED.fullmatch(path)
        if followed is not None and not os.path.exists(location.join(root, path)):
            path, word = followed[1], followed[2].strip()
        if path and (len(word.split()) > 1 or bool(word) != bool(found[0][1] if found else word)):
            raise UserError(
                f"line {number} of {spec} is '{line.strip()}'; expected in every line a path, or in every line a path "
                "and one word, its label"
            )
        if path:
            found.append((written_path(path, root), word))
    if not found:
        raise UserError(f"{spec} is empty; it takes one path of an image per line")
    table = Table(keys=Texts(path for path, _ in found), label=column_of(word_of(word) for _, word in found))
    return open_files(spec, root, table, split=split, channels=channels)


def written_path(path: str, root: str) -> str:
    """Return a path as it is meant: tables hold blanks around them, and backslashes where Windows wrote them.

    Raises:
        UserError: if the table that names it is in Latin-1.
    """
    path = path.strip().strip("\ufeff").strip()
    if ("\\" not in path and path.isascii()) or os.path.exists(location.join(root, path)):
        return path
    latin = re.sub("[\udc80-\udcff]", lambda byte: chr(ord(byte[0]) - 0xDC00), path)  # bytes that are no UTF-8
    if latin != path and os.path.exists(location.join(root, latin)):
        raise UserError(f"{latin} is named in Latin-1, by a table that must be UTF-8; save it as UTF-8")
    return path.replace("\\", "/")


def images_among(paths: Iterable[str], *, where: str) -> tuple[list[str], tuple[str, ...]]:
    """Return the paths of images, and a remark on what was passed over, if anything was.

    Raises:
        UserError: if there are none.
    """
    images, others = list[str](), Counter[str]()
    for path in paths:
        if path.lower().endswith(EXTENSIONS):
            images.append(path)
        else:
            others[location.suffix(path)] += 1
    remarks = passed_over(others)
    if not images:
        raise UserError(
            f"no images in {where}; {''.join(remarks) or 'no files at all'}; read are {' '.join(EXTENSIONS)}"
        )
    return images, remarks


def passed_over(others: Mapping[str, int]) -> tuple[str, ...]:
    """Return a remark on files that are no images, counted by their endings, if there are any."""
    shown = sorted(others.items(), key=lambda one: -one[1])
    words = [f"{count:,} {ending or 'without an ending'}" for ending, count in shown[:_SHOWN]]
    rest = sum(count for _, count in shown[_SHOWN:])
    return (f"passed over: {', '.join(words)}{f', {rest:,} others' if rest else ''}",) if others else ()
