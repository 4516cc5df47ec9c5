"""Features that are kept, so that no image meets the same network twice.

A folder of the cache belongs to one network, what is read of it and how images are brought to it (`folder_of`), and to
the code and the libraries that compute it. In it, rows are found by a digest of the image's file, whatever it is called
and whichever source it is in; a file that changed is another file. Anyone may delete any of it at any time.

    DINOKIT_CACHE/features/DIGEST/NAME.npy    rows [image, ...]
                                  NAME.keys   digests of file and pixels, and the row; written last, makes it count
"""

from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, final

import numpy
from jaxtyping import Int64, Shaped

import dinokit
from dinokit.core.device import Precision
from dinokit.core.files import cache_folder, digest, digest_of_files, digest_of_model, write_atomic
from dinokit.core.messages import RunError, reason, warn
from dinokit.features.embedding import Read
from dinokit.images.transforms import Transform
from dinokit.models.features import Backbone

ROOMS = ("images", "models", "peers")  # whose code decides what a feature is
_DECODE = ("pillow", "tifffile", "imagecodecs", "OpenEXR")
_LIBRARIES = ("torch", "torchvision", *_DECODE, "timm", "transformers", "open_clip_torch")
_KEY = numpy.dtype([("file", "V16"), ("pixels", "V16"), ("row", "<i8")])  # row -1: that of another part

_warn_once = cache(warn)


def folder_of(backbone: Backbone, read: Read, transform: Transform, precision: Precision) -> Path:
    """Return where the features of a network are kept."""
    told = [type(backbone).__qualname__, digest_of_model(backbone), repr(read), repr(transform), precision]
    return cache_folder() / "features" / digest(f"{part}\n" for part in told + versions())


@cache
def versions() -> list[str]:
    """Return what tells the code and the libraries that make features from others."""
    home = Path(dinokit.__file__).parent
    code = sorted(path for room in ROOMS for path in (home / room).glob("*.py"))
    found = [digest_of_files([*code, home / "features" / "embedding.py"])]
    for name in _LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            found.append(f"{name} {metadata.version(name)}")
    return found


@final
class Cache:
    """Rows by the pixels that a network has seen, and those by the file they came from."""

    def __init__(self, folder: Path | None) -> None:
        """Look at what a folder holds; None: nothing, and what is added stays in memory."""
        self.folder = folder
        self.files: dict[bytes, bytes] = {}  # digest of a file -> of its pixels
        self.rows: dict[bytes, tuple[int, int]] = {}  # digest of pixels -> part, row
        self._parts: list[Path | Shaped[numpy.ndarray, "row *shape"]] = []
        self._read = set[Path]()
        self.refresh()

    def refresh(self) -> None:
        """Look at what others have added."""
        found = sorted(self.folder.glob("*.keys")) if self.folder is not None else []
        for path in found:
            if path in self._read:
                continue
            try:
                rows, keys = numpy.load(path.with_suffix(".npy"), mmap_mode="r"), numpy.fromfile(path, _KEY)
            except (OSError, ValueError, EOFError):  # deleted by someone, or damaged: as if it were not there
                continue
            if len(rows) == (keys["row"] >= 0).sum():
                self._read.add(path)
                self._take_in(path.with_suffix(".npy"), keys)
        self.files = {file: pixels for file, pixels in self.files.items() if pixels in self.rows}

    def add(
        self, files: Sequence[bytes], pixels: Sequence[bytes], rows: dict[bytes, Shaped[numpy.ndarray, "*shape"]]
    ) -> None:
        """Keep the rows of a part, by their pixels; those of its other files are here already."""
        if not rows:
            self.files |= zip(files, pixels, strict=True)
            return
        places = {pixel: place for place, pixel in enumerate(rows)}
        keys = numpy.empty(len(files), _KEY)
        keys["file"], keys["pixels"] = (numpy.frombuffer(b"".join(each), "V16") for each in (files, pixels))
        keys["row"] = [places.pop(pixel, -1) for pixel in pixels]
        values = numpy.stack(list(rows.values()))
        self._take_in(self._written(keys, values) or values, keys)

    def take(self, pixels: Sequence[bytes]) -> Shaped[numpy.ndarray, "image *shape"]:
        """Return a copy of the rows of some images, by their pixels; RunError if they were deleted meanwhile."""
        places: Int64[numpy.ndarray, "image 2"] = numpy.array([self.rows[each] for each in pixels])
        found: Shaped[numpy.ndarray, "image *shape"] | None = None
        for part in numpy.unique(places[:, 0]).tolist():
            here, kept = numpy.flatnonzero(places[:, 0] == part), self._parts[part]
            rows = kept if isinstance(kept, numpy.ndarray) else _opened(kept)
            if found is None:
                found = numpy.empty((len(pixels), *rows.shape[1:]), rows.dtype)
            found[here] = rows[places[here, 1]]
        assert found is not None
        return found

    def _take_in(self, part: Path | Shaped[numpy.ndarray, "row *shape"], keys: Any) -> None:
        number = len(self._parts)
        self._parts.append(part)
        for file, pixels, row in keys.tolist():
            self.files[file] = pixels
            if row >= 0:
                self.rows[pixels] = (number, row)

    def _written(self, keys: Any, values: Shaped[numpy.ndarray, "row *shape"]) -> Path | None:
        """Write a part, if there is a folder that takes it."""
        if self.folder is None:
            return None
        path = self.folder / f"{digest([keys])}.npy"
        try:
            with write_atomic(path) as temporary, temporary.open("wb") as file:
                numpy.save(file, values)
            with write_atomic(path.with_suffix(".keys")) as temporary:
                keys.tofile(temporary)
        except OSError as error:
            _warn_once(f"features cannot be kept in {self.folder.parent}: {reason(error)}; set DINOKIT_CACHE")
            return None
        self._read.add(path.with_suffix(".keys"))
        return path


def _opened(part: Path) -> Shaped[numpy.ndarray, "row *shape"]:
    try:
        rows: Shaped[numpy.ndarray, "row *shape"] = numpy.load(part, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        what = reason(error) if isinstance(error, OSError) else "it is damaged"
        raise RunError(f"features in {part} are gone: {what}; the same command computes them again") from error
    return rows
