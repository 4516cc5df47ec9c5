"""Where bytes lie: a path of this machine or a URL (s3://, gs://, https://, ...), listed and read in the same way.

Nothing here keeps a connection: fsspec keeps them, one set per process. Local files that are read piece by piece stay
open, a few at a time; a piece is read by its position, so threads and forked processes may share them.
"""

import errno
import glob
import io
import os
import re
import stat
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from dinokit.core.messages import UserError, reason
from dinokit.sources import remote

NO_PATHS = ("demo:", "hf:")  # what such a spec begins with
_BRACES = re.compile(r"\{([^{}]*(?:,|\.\.)[^{}]*)\}")
_MAGIC = re.compile(r"[*?\[]")
_MOST = 1_000_000  # names in a range


def is_remote(location: str) -> bool:
    """Tell a URL from a path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", location) is not None


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
    """List what a pattern stands for; braces in their order, the matches of a star sorted.

    Raises:
        UserError: if a brace range is not of numbers, or a server cannot be asked.
    """
    found: list[str] = []
    for one in _without_braces(pattern):
        if not _MAGIC.search(one):
            found.append(os.path.expanduser(one))
        elif is_remote(one):
            found += remote.listed(one, pattern=True)
        else:
            found += sorted(path for path in glob.glob(os.path.expanduser(one), recursive=True) if os.path.isfile(path))
    return found


def existing_folder(spec: str) -> Path:
    """Return the folder that a spec names.

    Raises:
        UserError: if there is none, or the system does not let us look.
    """
    root = Path(spec).expanduser()
    if os.path.isdir(root):  # to which a name that is too long is no folder
        return root
    check_reachable(spec)
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
    return os.pread(opened.descriptor, max(min(size, there), 0), start)


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
    """Yield the lines of a text of UTF-8, with their ends; other bytes, which a file name may hold, become surrogates.

    Raises:
        UserError: if there is no such file, or it is UTF-16, as spreadsheets write.
    """
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
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError("not a file")
    return open(descriptor, "rb")


@lru_cache(maxsize=64)
class _Opened:
    """An open file that closes when the last reader lets go of it, not when it leaves the cache."""

    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, os.O_RDONLY)

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
