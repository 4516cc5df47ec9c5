"""Folders of this machine: what lies in them, as a person sees it."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from dinokit.core.errors import UserError, reason


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
    """Refuse a path at which the system does not let us look: that is not the same as nothing being there.

    Raises:
        UserError: names the system's reason.
    """
    try:
        os.stat(os.path.expanduser(spec))
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
            raise UserError(f"cannot open {spec}: {reason(error)}") from error


def hidden(path: str) -> bool:
    """Tell what people do not see in their folders, such as the twins that macOS puts into archives."""
    return any(part.startswith((".", "__MACOSX")) for part in path.split("/"))


def walk(root: Path) -> Iterator[str]:
    """List files without hidden entries, following links, each real folder once (a link may point at its parent).

    Pipes and devices, which may never end, are left out; a dead link is listed, to be reported as unreadable.
    """
    pending, visited = [""], set()
    while pending:
        prefix = pending.pop()
        status = os.stat(root / prefix)
        if (status.st_dev, status.st_ino) in visited:
            continue
        visited.add((status.st_dev, status.st_ino))
        files, inner = entries(root / prefix)
        # reversed: the stack then gives the alphabetical first, which is the one that stays of two links to one folder
        pending += [f"{prefix}{name}/" for name in reversed(inner)]
        yield from (prefix + name for name in files)


def sub_folders(root: Path) -> list[str]:
    """List the visible folders in a folder, sorted."""
    return entries(root)[1]


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
