"""Images with a value for every pixel, its class or its depth: what lies beside what, of one size, and a look at all.

    ROOT/images/NAME.jpg         ROOT/masks/NAME.png             no splits
    ROOT/train/images/NAME.jpg   ROOT/train/masks/NAME.png       and ROOT/val/, ROOT/test/, by any name of a split
    ROOT/images/train/NAME.jpg   ROOT/masks/train/NAME.png       and so on

What belongs together has the same path up to its ending; pairs are in the order of their names, numbers by value.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy
from jaxtyping import Shaped

from dinokit.core.files import digest_of_files
from dinokit.core.messages import BadImage, UserError, progress, reason, warn
from dinokit.core.order import natural
from dinokit.images import intensity
from dinokit.images.decode import decode
from dinokit.sources.location import EXTENSIONS, SPLITS, spelled, split_folders, walk

Values = Shaped[numpy.ndarray, "height width"]
Files = tuple[tuple[Path, ...], tuple[Path, ...]]  # images, and what lies beside each


@dataclass(frozen=True)
class Annotated(ABC):
    """One split; picklable, holds no open file."""

    name: str
    images: tuple[Path, ...]
    beside: tuple[Path, ...]  # the mask or the depth of each
    channels: int
    white: float | int | None  # of deeper images

    missing: ClassVar[int]  # the value of a pixel that does not count

    def __len__(self) -> int:
        return len(self.images)

    @abstractmethod
    def read(self, index: int) -> tuple[intensity.Image, Values]:
        """Read an image and its values, of the same height and width, or raise UserError."""

    @abstractmethod
    def said(self) -> object:
        """Say in plain values what the values mean."""

    def digest(self) -> object:
        """Tell the data from others, by what the files hold and their values mean."""
        return [self.said(), digest_of_files((*self.images, *self.beside))]

    def look(self, indices: Iterable[int], *, counts: Callable[[Values], bool], why: str) -> None:
        """Read pairs before a long computation: all must be readable and of one size, and some must have what counts.

        Args:
            counts: whether values have a pixel that counts.
            why: what it means if none has.

        Raises:
            UserError: names the pair.
        """
        chosen = list(indices)
        empty = [self.beside[index] for index in progress(chosen, len(chosen)) if not counts(self.read(index)[1])]
        if len(empty) == len(chosen):
            raise UserError(why)
        if empty:
            warn(f"{len(empty)} of {len(chosen)} have no pixel that counts and say nothing, such as {empty[0]}")


def folders_of(root: Path, kind: str) -> dict[str, tuple[Path, Path]]:
    """Return the folders of images and of `kind`, in any case, of every split, train first; of "" without splits."""
    tops = spelled(root, "images"), spelled(root, kind)
    images, others = map(split_folders, tops)
    found = {name: (folder, others.get(name, tops[1] / folder.name)) for name, folder in images.items()}
    for name, folder in split_folders(root).items():
        inside = spelled(folder, "images"), spelled(folder, kind)
        if inside[0].is_dir():
            found[name] = inside
    if not found and tops[0].is_dir():
        return {"": tops}
    return {name: found[name] for name in SPLITS if name in found}


def matched(images: Path, others: Path, *, kind: str, endings: Sequence[str]) -> Files:
    """Find what lies beside every image.

    Args:
        kind: what it is called.

    Raises:
        UserError: if something is missing, or there are two files of one name.
    """
    if not others.is_dir():
        raise UserError(f"expected the {kind}s of {images} in the folder {others}, which is not there")
    found, beside = (_by_stem(folder, ends) for folder, ends in ((images, EXTENSIONS), (others, endings)))
    for stem, image in found.items():
        if stem not in beside:
            known = ", ".join(endings)
            raise UserError(
                f"expected the {kind} {others / stem}{endings[0]} of {image}, which is not there; read: {known}"
            )
    lonely = beside.keys() - found.keys()
    if lonely:
        raise UserError(f"expected an image {images / min(lonely)} of the {kind} {beside[min(lonely)]}, found none")
    if not found:
        raise UserError(f"found no image in {images}")
    stems = sorted(found, key=natural)
    return tuple(found[stem] for stem in stems), tuple(beside[stem] for stem in stems)


def _by_stem(folder: Path, endings: Sequence[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for name in walk(folder):
        if name.lower().endswith(tuple(endings)):
            stem = name.rsplit(".", 1)[0]
            if stem in found:
                raise UserError(f"{found[stem]} and {folder / name} have one name; keep one of them")
            found[stem] = folder / name
    return found


@contextmanager
def reading(kind: str, path: Path) -> Iterator[None]:
    """Say of which file it is if one cannot be read."""
    try:
        yield
    except (BadImage, OSError) as error:
        why = reason(error) if isinstance(error, OSError) else error
        raise UserError(f"cannot read the {kind} {path}: {why}; repair it or take the pair away") from error


def read_image(path: Path, *, channels: int | None, white: float | int | None) -> intensity.Image:
    """Read an image that something belongs to, or raise UserError.

    Args:
        white: the value of deeper files that stands for 1.0; None: by the kind of file.
    """
    with reading("image", path):
        return decode(path.read_bytes(), channels=channels, white=white)


def check_size(path: Path, size: Sequence[int], other: Path, shape: Sequence[int], *, kind: str) -> None:
    """Refuse a mask or a depth of another height and width than its image; name both."""
    if tuple(size) != tuple(shape):
        turned = "; the image is shown as its EXIF orientation says" if tuple(size) == tuple(shape)[::-1] else ""
        raise UserError(
            f"{path} and its {kind} {other} must be of one size, got {size[1]} x {size[0]} and {shape[1]} x {shape[0]} "
            f"pixels{turned}"
        )
