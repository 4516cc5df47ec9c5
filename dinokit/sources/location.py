"""Where images lie, listed and read the same on this machine and on servers, and what names there mean.

A location is a path or a URL (s3://, gs://, https://, ...). Whether a name is an image's, a split's or hidden is asked
here, be it in a folder, an archive or a table. Splits have many names - train, Training, val, valid - and one rule.

Nothing here keeps a connection: fsspec keeps them, one set per process. Local files that are read piece by piece stay
open, a few at a time; a piece is read by its position, so threads and forked processes may share them.
"""

import errno
import glob
import io
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Any
from urllib.parse import urlsplit

from dinokit.core.messages import UserError, reason, unknown_name
from dinokit.sources import remote

NO_PATHS = ("demo:", "hf:")  # what such a spec begins with
_NAMED = re.compile(r"[a-z][a-z0-9-]+:(?!//)")  # demo:NAME, hf:NAME, food101:FOLDER; no URL, no drive of Windows
# of images, in any case: .JPG too; what a file is, its bytes say (images/decode.py)
EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".npy")
SPLITS = ("train", "val", "test")  # the default first
_OTHER_NAMES = {"training": "train", "testing": "test"} | dict.fromkeys(
    ("validation", "validate", "valid", "dev", "eval", "evaluation", "holdout"), "val"
)
_AROUND = re.compile(r"(?:seg[-_ ])?([a-z]+?)[-_ ]?(?:set|\d{4})?")  # train2017, test_set, seg_train
_BRACES = re.compile(r"\{([^{}]*(?:,|\.\.)[^{}]*)\}")
_MAGIC = re.compile(r"[*?\[]")
_MOST = 1_000_000  # names in a range
_BINARY = getattr(os, "O_BINARY", 0)  # else Windows ends a file at byte 26


def is_remote(location: str) -> bool:
    """Tell a URL from a path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", location) is not None


def prefix(spec: str) -> str:
    """Return what names the kind of a spec, with its colon: demo:, hf:, food101:; '' of a path or a URL."""
    found = _NAMED.match(spec)
    return found[0] if found and (found[0] in NO_PATHS or not os.path.exists(spec)) else ""


def suffix(location: str) -> str:
    """Return the ending in lower case, '.tar', without what follows the path of a URL."""
    path = urlsplit(location).path if re.match("https?://", location) else location
    return PurePosixPath(path).suffix.lower()


def absolute(location: str) -> str:
    """Return a location that means the same from any working directory."""
    return location if is_remote(location) else os.path.abspath(os.path.expanduser(location))


def join(folder: str, name: str) -> str:
    """Return where a name lies that is given relative to a folder; or is absolute, a URL, or no path at all."""
    if is_remote(name) or name.startswith(NO_PATHS):
        return name
    if is_remote(folder):
        return f"{folder.rstrip('/')}/{name}"
    return os.path.join(folder, os.path.expanduser(name))


def parent(location: str) -> str:
    """Return the folder in which a file lies."""
    return location.split("?", 1)[0].rsplit("/", 1)[0] if is_remote(location) else str(Path(location).parent)


def is_pattern(spec: str) -> bool:
    """Tell whether a spec stands for several files: {000..099}, {a,b}, *, ?, [abc], ** for any folders."""
    if not is_remote(spec):
        return not os.path.exists(os.path.expanduser(spec)) and bool(_BRACES.search(spec) or _MAGIC.search(spec))
    path = spec.split("?", 1)[0] if spec.startswith("http") else spec
    return bool(_BRACES.search(path) or _MAGIC.search(path))


def fixed_folder(pattern: str) -> str:
    """Return the folder above the first part of a pattern that is not fixed."""
    start = min(found.start() for found in (_BRACES.search(pattern), _MAGIC.search(pattern)) if found)
    return os.path.expanduser(pattern[:start].rpartition("/")[0]) or ("/" if pattern.startswith("/") else ".")


def expand(pattern: str) -> list[str]:
    """List what a pattern stands for, or raise UserError; braces in their order, the matches of a star sorted."""
    found: list[str] = []
    for one in _without_braces(pattern):
        if not _MAGIC.search(one):
            found.append(os.path.expanduser(one))
        elif is_remote(one):
            found += remote.listed(one, pattern=True)
        else:
            files = filter(os.path.isfile, glob.glob(os.path.expanduser(one), recursive=True))
            found += sorted(path.replace(os.sep, "/") for path in files)
    return found


def existing_folder(spec: str) -> Path:
    """Return the folder that a spec names; UserError if there is none, or the system does not let us look."""
    root = Path(os.path.expanduser(spec))
    if os.path.isdir(root):  # to which a name that is too long is no folder
        return root
    check_reachable(spec)
    kind, colon, rest = spec.partition(":")
    if colon and rest and os.path.isdir(os.path.expanduser(rest)):
        raise UserError(f"'{kind}:' means nothing here, where the path of a folder is expected; try {rest}")
    where = "" if root.is_absolute() else f" (looked in the current folder {Path.cwd()})"
    raise UserError(f"no folder {spec}{where}; give the path of a folder of images, or demo:fashion")


def check_reachable(spec: str) -> None:
    """Refuse a path at which the system does not let us look: that is not the same as nothing being there."""
    try:
        os.stat(os.path.expanduser(spec))
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
            raise UserError(f"cannot open {spec}: {reason(error)}") from error


def hidden(path: str) -> bool:
    """Tell what people do not see in their folders, such as the twins that macOS puts into archives."""
    return any(part.startswith((".", "__MACOSX")) for part in path.split("/"))


def is_image(path: str) -> bool:
    """Tell whether a file is an image, by its ending."""
    return path.lower().endswith(EXTENSIONS)


def walk(folder: str | Path) -> Iterator[str]:
    """List all files below a folder or a prefix, as paths relative to it, without hidden ones.

    Links are followed, each real folder once (a link may point at its parent). Pipes and devices, which may never end,
    are left out; a dead link is listed, to be reported as unreadable.
    """
    if is_remote(str(folder)):
        yield from (path for path in remote.listed(str(folder)) if not hidden(path))
        return
    pending, visited = [""], set()
    while pending:
        prefix = pending.pop()
        status = os.stat(Path(folder) / prefix)
        if (status.st_dev, status.st_ino) in visited:
            continue
        visited.add((status.st_dev, status.st_ino))
        files, inner = entries(Path(folder) / prefix)
        # reversed: the stack then gives the alphabetical first, which is the one that stays of two links to one folder
        pending += [f"{prefix}{name}/" for name in reversed(inner)]
        yield from (prefix + name for name in files)


def entries(folder: Path) -> tuple[list[str], list[str]]:
    """Return the names of the visible files and of the visible folders, sorted."""
    files, inner = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    is_folder, is_file = entry.is_dir(), entry.is_file() or not os.path.exists(entry)
                except OSError:  # a link that points at itself
                    is_folder, is_file = False, True
                if is_folder and not entry.name.startswith("."):
                    inner.append(entry.name)
                elif is_file and not entry.name.startswith("."):
                    files.append(entry.name)
    except OSError as error:
        raise UserError(
            f"cannot list the folder {folder}: {reason(error)}; make it readable or move it away"
        ) from error
    return sorted(files), sorted(inner)


def spelled(folder: Path, name: str) -> Path:
    """Return what lies in a folder by a name in any case: as it is written, if that is there or if nothing is."""
    if not os.path.exists(folder / name):
        with suppress(OSError):
            name = next((each for each in sorted(os.listdir(folder)) if each.lower() == name.lower()), name)
    return folder / name


def split_name(word: str) -> str:
    """Return the name that a split has everywhere here: train, val, test, or its own in lower case."""
    word = word.strip().lower()
    inner = _AROUND.fullmatch(word)
    name = inner[1] if inner else word
    name = _OTHER_NAMES.get(name, name)
    return name if name in SPLITS else word


def known_splits(words: Iterable[str]) -> tuple[str, ...]:
    """Return the splits among words, the default first; empty unless train and another one, or val and test."""
    names = {split_name(word) for word in words}
    first = [name for name in SPLITS if name in names]
    several = len(names) > 1 and ("train" in names or len(first) == len(names))
    return (*first, *sorted(names - set(first))) if several else ()


def choose_split(spec: str, split: str | None, known: tuple[str, ...]) -> str | None:
    """Return the split that is asked for, or else the default one, or None where there are none."""
    if split is None:
        return known[0] if known else None
    if not known:
        raise UserError(
            f"{spec} has no splits, got split '{split}'; leave it out, or make folders train and val or a column split"
        )
    if split_name(split) not in known:
        raise unknown_name(f"split of {spec}", split, known)
    return split_name(split)


def named_as_splits(folders: Iterable[str], *, where: str) -> dict[str, str]:
    """Return the folders named as splits, by the name of the split, train first; UserError if two are named as one."""
    found: dict[str, str] = {}
    for folder in sorted(folders):
        name = split_name(folder)
        if name in found:
            raise UserError(f"{where} has {found[name]} and {folder}, both names of the split {name}; rename one")
        if name in SPLITS:
            found[name] = folder
    return {name: found[name] for name in SPLITS if name in found}


def split_folders(root: Path) -> dict[str, Path]:
    """Return the sub-folders that are named as splits, by the name of the split, train first; perhaps a single one."""
    folders = entries(root)[1] if root.is_dir() else ()
    return {name: root / folder for name, folder in named_as_splits(folders, where=str(root)).items()}


def folder_splits(root: Path) -> dict[str, Path]:
    """Return the folder of each split, train first; empty unless there are several (`known_splits`)."""
    found = split_folders(root)
    return found if known_splits(found) else {}


def read(location: str) -> bytes:
    """Read a whole file; OSError if that fails, from a server also after some attempts."""
    if is_remote(location):
        return remote.read(location)
    with _regular(location) as file:
        return file.read()


def read_part(location: str, start: int, size: int) -> bytes:
    """Read `size` bytes from `start` on, fewer at the end of the file; OSError if that fails."""
    if is_remote(location):
        return remote.read(location, start, start + size)
    opened = _Opened(location)  # by name: it must not close before it is read
    there = os.fstat(opened.descriptor).st_size - start  # memory is not asked for on the word of a damaged archive
    size = max(min(size, there), 0)
    if hasattr(os, "pread"):
        return os.pread(opened.descriptor, size, start)
    with opened.turn:  # Windows has one position per file, which threads would move under each other
        os.lseek(opened.descriptor, start, os.SEEK_SET)
        return os.read(opened.descriptor, size)


def open_file(location: str) -> Any:
    """Open a file to be read: what `open(path, "rb")` returns, or fsspec's like of it."""
    try:
        return (
            remote.asked(location, lambda files: files.open(location, "rb"))
            if is_remote(location)
            else _regular(location)
        )
    except OSError as error:
        raise UserError(f"cannot open {location}: {reason(error)}") from error


def lines(location: str) -> Iterator[str]:
    """Yield the lines of a UTF-8 text, with their ends; bytes that are none become surrogates. UserError for UTF-16."""
    with open_file(location) as file:
        text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
        first = next(text, "")
        if "\0" in first:
            raise UserError(f"{location} is a text of UTF-16; save it as UTF-8")
        yield first
        yield from text


def version(location: str) -> tuple[int, str]:
    """Return the size in bytes and what changes with the content: time or tag."""
    try:
        if is_remote(location):
            return remote.version(location)
        found = os.stat(location)
    except OSError as error:
        raise UserError(f"cannot open {location}: {reason(error)}") from error
    return found.st_size, str(found.st_mtime_ns)


def _regular(path: str) -> io.BufferedReader:
    """Open a file, but no pipe, which would be waited for without end."""
    descriptor = os.open(path, os.O_RDONLY | _BINARY | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError("not a file")
    return open(descriptor, "rb")


@lru_cache(maxsize=64)
class _Opened:
    """An open file that closes when the last reader lets go of it, not when it leaves the cache."""

    def __init__(self, path: str) -> None:
        self.turn = Lock()
        self.descriptor = os.open(path, os.O_RDONLY | _BINARY)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


def _without_braces(pattern: str) -> list[str]:
    found = _BRACES.search(pattern)
    if found is None:
        return [pattern]
    before, after, inside = pattern[: found.start()], pattern[found.end() :], found[1]
    words = inside.split(",")
    if len(words) == 1:
        low, _, high = inside.partition("..")
        if not (low.isdecimal() and high.isdecimal() and int(low) <= int(high)):
            raise UserError(f"expected a range like {{000..099}}, got {{{inside}}}")
        if int(high) - int(low) >= _MOST:
            raise UserError(f"{{{inside}}} stands for more than {_MOST:,} files; give a folder, or * for what varies")
        width = len(low) if low.startswith("0") else 0
        words = [f"{number:0{width}d}" for number in range(int(low), int(high) + 1)]
    return [whole for word in words for whole in _without_braces(f"{before}{word}{after}")]
