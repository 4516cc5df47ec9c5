"""Folders of this machine: what lies in them, as a person sees it."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from dinokit.core.errors import UserError, reason


def existing_folder(spec: str) -> Path:
    """Return the folder that a spec names.

    Raises:
        UserError: if there is none.
    """
    root = Path(spec).expanduser()
    if os.path.isdir(root):  # to which a name that is too long is no folder
        return root
    where = "" if root.is_absolute() else f" (looked in the current folder {Path.cwd()})"
    raise UserError(f"no folder {spec}{where}; give the path of a folder of images, or demo:fashion")


def hidden(path: str) -> bool:
    """Tell what people do not see in their folders, such as the twins that macOS puts into archives."""
    return any(part.startswith((".", "__MACOSX")) for part in path.split("/"))


def walk(root: Path) -> Iterator[str]:
    """List files without hidden entries, following links, each real folder once (a link may point at its parent)."""
    pending, visited = [""], set()
    while pending:
        prefix = pending.pop()
        status = os.stat(root / prefix)
        if (status.st_dev, status.st_ino) in visited:
            continue
        visited.add((status.st_dev, status.st_ino))
        visible = sorted(_entries(root / prefix), key=lambda entry: entry.name)
        # reversed: the stack then gives the alphabetical first, which is the one that stays of two links to one folder
        pending += [f"{prefix}{entry.name}/" for entry in reversed(visible) if _is_folder(entry)]
        yield from (prefix + entry.name for entry in visible if _is_file(entry))


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Tell files from folders, and from pipes and devices, which may never end; a dead link is listed as unreadable."""
    try:
        return stat.S_ISREG(entry.stat().st_mode)
    except OSError:
        return True


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that points at itself
        return False


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise UserError(
            f"cannot list the folder {folder}: {reason(error)}; make it readable or move it away"
        ) from error


def sub_folders(root: Path) -> list[str]:
    """List the folders in a folder."""
    return [entry.name for entry in _entries(root) if _is_folder(entry)]
