"""Where images come from: anything that can say how many it has and read one by its index.

Order, augmentation and masks never depend on the kind of source, so a new kind is one subclass and one line of
`open_source`. A source is picklable, holds no open file, and is cheap to copy into loader processes.
"""

import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import final

import numpy as np
from jaxtyping import Int64, Shaped, UInt8
from torch import Tensor

from dinokit.core import depth
from dinokit.core.errors import UserError, reason, unknown_name
from dinokit.data.decode import EXTENSIONS, BadImage, decode
from dinokit.data.demo import demo_splits, load_demo

__all__ = ["ArraySource", "BadImage", "FolderSource", "Source", "is_gray", "open_source", "same_source", "splits"]

_DEMO = "demo:"
_SPLIT_FOLDERS = ("train", "val", "test")


class Source(ABC):
    """Images by index.

    Attributes:
        name: how the user wrote it, for messages and file names.
        channels: of every image that `read` returns.
        classes: names of the labels; empty without labels.
        labels: position in `classes` of every image, if known.
        domains: name of the domain (style, camera, hospital) of every image, if known.
        decoded: reading is a copy from memory; there is nothing for loader processes to win.
    """

    name: str
    channels: int
    classes: tuple[str, ...] = ()
    labels: Int64[np.ndarray, "sample"] | None = None
    domains: Shaped[np.ndarray, "sample"] | None = None
    decoded: bool = False

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def key(self, index: int) -> str:
        """Return what identifies the image to a person: a path inside the source or an id."""

    @abstractmethod
    def read(self, index: int, *, min_side: int | None = None) -> depth.Image:
        """Read one image: uint8, or float32 with 1.0 as white from files that are deeper (core/depth.py).

        Args:
            min_side: the image may come back smaller, as long as its short side keeps this many pixels.

        Raises:
            BadImage: the reason why it cannot be used.
        """


def open_source(spec: str, *, split: str | None = None, channels: int = 3) -> Source:
    """Open a folder of images or a demo set.

    A folder is searched with all its sub-folders; hidden files are left out. With sub-folders `train` and `val` or
    `test` it has splits. If its images all lie in (two or more) sub-folders, the first level gives the labels.

    Args:
        spec: a path, or demo:fashion, demo:fashion-placed, demo:emoji.
        split: None = the first of `splits(spec)`, i.e. train, or everything if there are no splits.
        channels: 1 = gray, 3 = RGB, other = as stored.

    Raises:
        UserError: if there is nothing to read; the message says what was looked for and where.
    """
    chosen = _chosen_split(spec, split)
    if spec.startswith(_DEMO):
        if channels not in (1, 3):
            raise UserError(f"{spec} has images of 1 or 3 channels, not {channels}; give 1 or 3")
        demo = load_demo(spec.removeprefix(_DEMO), split=chosen or "", channels=channels)
        return ArraySource(
            demo.images, name=spec, keys=demo.keys, labels=demo.labels, classes=demo.classes, domains=demo.domains
        )
    return FolderSource(spec, split=chosen, channels=channels)


def splits(spec: str) -> tuple[str, ...]:
    """Return the names of the splits, the default first; empty if there are none.

    Raises:
        UserError: if the source does not exist.
    """
    if spec.startswith(_DEMO):
        return demo_splits(spec.removeprefix(_DEMO))
    root = _existing_folder(spec)
    found = tuple(name for name in _SPLIT_FOLDERS if (root / name).is_dir())
    return found if len(found) >= 2 and found[0] == "train" else ()


def is_gray(source: Source, *, looked_at: int = 32) -> bool:
    """Tell whether some evenly spaced images of a source of three channels are all gray; no if none is readable."""
    found = []
    for index in np.linspace(0, len(source) - 1, min(looked_at, len(source))).round().astype(np.int64).tolist():
        with suppress(BadImage):
            image = source.read(index, min_side=32)
            found.append(bool((image == image[:1]).all()))
    return bool(found) and all(found)


@final
class Subset(Source):
    """Evenly spaced images of another source: quick to measure, and in a sorted folder every class keeps its share."""

    def __init__(self, source: Source, count: int) -> None:
        self.source = source
        self.rows = np.linspace(0, len(source) - 1, min(count, len(source))).round().astype(np.int64)
        self.name = source.name
        self.channels = source.channels
        self.classes = source.classes
        self.labels = None if source.labels is None else source.labels[self.rows]
        self.domains = None if source.domains is None else source.domains[self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def key(self, index: int) -> str:
        """Return the key of the image in the whole source."""
        return self.source.key(int(self.rows[index]))

    def read(self, index: int, *, min_side: int | None = None) -> depth.Image:
        """Read one image."""
        return self.source.read(int(self.rows[index]), min_side=min_side)


@final
class ArraySource(Source):
    """Images of one size in memory."""

    decoded = True

    def __init__(
        self,
        images: UInt8[Tensor, "sample channel height width"],
        *,
        name: str = "array",
        keys: Sequence[str] | None = None,
        labels: Int64[np.ndarray, "sample"] | None = None,
        classes: tuple[str, ...] = (),
        domains: Shaped[np.ndarray, "sample"] | None = None,
    ) -> None:
        self.images = images
        self.name = name
        self.channels = images.shape[1]
        self.labels = labels
        self.classes = classes
        self.domains = domains
        self._keys = _Texts(keys if keys is not None else map(str, range(len(images))))

    def __len__(self) -> int:
        return len(self.images)

    def key(self, index: int) -> str:
        return self._keys[index]

    def read(self, index: int, *, min_side: int | None = None) -> depth.Image:
        del min_side  # nothing to save: the pixels are there already
        return self.images[index]


@final
class FolderSource(Source):
    """Image files of a folder and all its sub-folders, sorted by path."""

    def __init__(self, spec: str, *, split: str | None = None, channels: int = 3) -> None:
        self.name = spec
        self.channels = channels
        top = _existing_folder(spec)
        self._root = top / split if split else top
        paths, others = _image_files(self._root)
        if not paths:
            seen = f"{others} other file{'s' if others != 1 else ''} seen" if others else "no files at all"
            raise UserError(f"no images in {self._root}: {seen}; read are {' '.join(EXTENSIONS)}")
        self._paths = _Texts(paths)
        if all("/" in path for path in paths):
            self._label([path.split("/", 1)[0] for path in paths], also=[top / name for name in splits(spec) if split])

    def _label(self, folders: list[str], *, also: list[Path]) -> None:
        # the classes of all splits, so that a label means the same in train and in test
        names = set(folders).union(*map(_folders, also))
        if len(names) < 2:
            return
        self.classes = tuple(sorted(names))
        number = {name: position for position, name in enumerate(self.classes)}
        self.labels = np.array([number[folder] for folder in folders], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._paths)

    def key(self, index: int) -> str:
        return self._paths[index]

    def encoded(self, index: int) -> bytes:
        """Return the file of an image; see data/check.py."""
        try:
            return (self._root / self._paths[index]).read_bytes()
        except OSError as error:  # deleted, unreadable, or a disk that fails: a matter of one image
            raise BadImage(f"cannot open: {reason(error)}") from error

    def read(self, index: int, *, min_side: int | None = None) -> depth.Image:
        return decode(self.encoded(index), channels=self.channels, min_side=min_side)


@final
class _Texts:
    """Many strings in two buffers; a list of a million would be copied page by page into every loader process."""

    def __init__(self, texts: Iterable[str]) -> None:
        encoded = [os.fsencode(text) for text in texts]
        self._ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)
        self._bytes = b"".join(encoded)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> str:
        start = self._ends[index - 1] if index % len(self) else 0
        return os.fsdecode(self._bytes[start : self._ends[index]])


def same_source(one: str, other: str) -> bool:
    """Tell whether two specs are ways to write the same thing, such as a relative and an absolute path."""
    if not one or not other or one.startswith(_DEMO) or other.startswith(_DEMO):
        return one == other
    return Path(one).expanduser().resolve() == Path(other).expanduser().resolve()


def _chosen_split(spec: str, split: str | None) -> str | None:
    known = splits(spec)
    if split is None:
        return known[0] if known else None
    if not known:
        raise UserError(f"{spec} has no splits, got split '{split}'; leave it out or make sub-folders train and test")
    if split not in known:
        raise unknown_name(f"split of {spec}", split, known)
    return split


def _existing_folder(spec: str) -> Path:
    if not spec:  # Path("") would be the current folder
        raise UserError("no images are given; give the path of a folder of images, or demo:fashion")
    root = Path(spec).expanduser()
    if root.is_dir():
        return root
    if root.exists():
        raise UserError(f"expected a folder of images, got the file {spec}; give the folder it lies in")
    where = "" if root.is_absolute() else f" (looked in the current folder {Path.cwd()})"
    raise UserError(f"no folder {spec}{where}; give the path of a folder of images, or demo:fashion")


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


def _folders(root: Path) -> list[str]:
    return [entry.name for entry in _entries(root) if _is_folder(entry)]


def _image_files(root: Path) -> tuple[list[str], int]:
    """List the image files under the root, sorted, relative, with '/'; and count all the other files."""
    paths, others = [], 0
    for path in _files(root):
        if path.lower().endswith(EXTENSIONS):
            paths.append(path)
        else:
            others += 1
    return sorted(paths), others


def _files(root: Path) -> Iterator[str]:
    """Walk without hidden entries, following links, each real folder once (a link may point at its own parent)."""
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
