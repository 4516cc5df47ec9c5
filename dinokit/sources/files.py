"""Images that are files of their own: a folder, a glob pattern, a list, a manifest; on this machine or on a server."""

from pathlib import Path
from typing import final

from dinokit.core.errors import UserError, reason
from dinokit.images.bad_image import BadImage
from dinokit.images.decode import EXTENSIONS
from dinokit.sources import location
from dinokit.sources.base import EncodedSource, Source
from dinokit.sources.folders import existing_folder, sub_folders, walk
from dinokit.sources.splits import choose_split, folder_splits
from dinokit.sources.table import ColumnBuilder, Table, Texts, table_of_paths


@final
class FileSource(EncodedSource):
    """One image per file; the keys are the paths, relative to a root or absolute."""

    def __init__(self, spec: str, root: str, table: Table, *, split: str | None, channels: int) -> None:
        super().__init__(spec, table, split=split, channels=channels)
        self._root = root

    def _fetch(self, row: int) -> bytes:
        try:
            return location.read(location.join(self._root, self._keys[row]))
        except (OSError, ValueError) as error:  # deleted, unreadable, a disk or a server that fails: one image
            why = reason(error) if isinstance(error, OSError) else str(error)
            raise BadImage(f"cannot open: {why}") from error


def open_folder(spec: str, *, split: str | None, channels: int) -> Source:
    """Open a folder with all its sub-folders, sorted by path; hidden files are left out.

    If its images all lie in (two or more) sub-folders, the first level gives the labels.
    """
    top = existing_folder(spec)
    splits = folder_splits(top)
    chosen = choose_split(spec, split, tuple(splits))
    root = splits[chosen] if chosen else top
    paths, others = _image_files(root)
    if not paths:
        seen = f"{others} other file{'s' if others != 1 else ''} seen" if others else "no files at all"
        raise UserError(f"no images in {root}: {seen}; read are {' '.join(EXTENSIONS)}")
    table = Table(keys=Texts(paths))
    # the classes of all splits, so that a label means the same in train and in test
    classes = {path.split("/", 1)[0] for path in paths}
    classes = classes.union(*map(sub_folders, splits.values())) if chosen else classes
    if all("/" in path for path in paths) and len(classes) > 1:
        labels = ColumnBuilder(sorted(classes))
        for path in paths:
            labels.add(path.split("/", 1)[0])
        table = Table(keys=table.keys, label=labels.build())
    return FileSource(spec, str(root), table, split=None, channels=channels)


def open_prefix(spec: str, *, split: str | None, channels: int) -> Source:
    """Open all images below a URL such as s3://bucket/prefix; folders are splits and labels as on a disk."""
    paths = location.walk(spec)
    images = [path for path in paths if path.lower().endswith(EXTENSIONS)]
    if not images:
        raise UserError(f"no images below {spec}: {len(paths)} other files seen; read are {' '.join(EXTENSIONS)}")
    return FileSource(spec, spec, table_of_paths(Texts(images)), split=split, channels=channels)


def open_pattern(spec: str, *, split: str | None, channels: int) -> Source:
    """Open the files that fit a pattern; folders are splits and labels as in a folder."""
    root = location.fixed_folder(spec)
    found = [path for path in location.expand(spec) if path.lower().endswith(EXTENSIONS)]
    if not found:
        raise UserError(f"no image fits the pattern {spec}; read are {' '.join(EXTENSIONS)}")
    start = f"{root.rstrip('/')}/"
    keys = Texts(path.removeprefix(start) for path in found)
    return FileSource(spec, root, table_of_paths(keys), split=split, channels=channels)


def open_list(spec: str, *, split: str | None, channels: int) -> Source:
    """Open a text file with one path or URL per line, relative to the folder in which it lies."""
    paths = Texts(path for line in location.lines(spec) if (path := line.strip()))
    if not len(paths):
        raise UserError(f"{spec} is empty; it takes one path of an image per line")
    return FileSource(spec, location.parent(spec), Table(keys=paths), split=split, channels=channels)


def _image_files(root: Path) -> tuple[list[str], int]:
    """List the image files under the root, sorted, relative, with '/'; and count all the other files."""
    paths, others = [], 0
    for path in walk(root):
        if path.lower().endswith(EXTENSIONS):
            paths.append(path)
        else:
            others += 1
    return sorted(paths), others
