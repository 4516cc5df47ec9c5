"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): all images of 32 x 32 pixels in a few files, in either form handed out.

The files for Python are pickles, which may run any program when they are read. Here they may hold nothing but plain
values and arrays of bytes, and anything else in them is refused.
"""

import pickle
import struct
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, final

import numpy as np
from jaxtyping import UInt8

from dinokit.core.messages import UserError, line_of, reason
from dinokit.sources.listings import Listing, lines
from dinokit.sources.table import ColumnBuilder, Table, Texts

SIDE, CHANNELS = 32, 3
_PIXELS = SIDE * SIDE * CHANNELS
# of a BMP file: signature, size, 2 x 0, where the pixels start; size of this part, width, height, planes, bits, 6 x 0
_BMP = struct.pack("<2sIHHI IiiHH IIIIII", b"BM", 54 + _PIXELS, 0, 0, 54, 40, SIDE, SIDE, 1, 24, *[0] * 6)
_BATCHES = {"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)}

Pixels = UInt8[np.ndarray, "image value"]


def ten(root: Path, split: str) -> Listing:
    """Read CIFAR-10: five batches to learn from, one to test on."""
    if (root / "batches.meta").exists():
        names = _value(root / "batches.meta", _unpickled(root / "batches.meta"), "label_names")
        return _images(names, {name: _batch(root / name, "labels") for name in _BATCHES[split]})
    names = [*lines(root / "batches.meta.txt")]
    return _images(names, {name: _records(root / f"{name}.bin", 1) for name in _BATCHES[split]})


def hundred(root: Path, split: str) -> Listing:
    """Read CIFAR-100, by its 100 fine classes: one file to learn from, one to test on."""
    if (root / "meta").exists():
        names = _value(root / "meta", _unpickled(root / "meta"), "fine_label_names")
        return _images(names, {split: _batch(root / split, "fine_labels")})
    return _images([*lines(root / "fine_label_names.txt")], {split: _records(root / f"{split}.bin", 2)})


def _images(names: Sequence[str], batches: Mapping[str, tuple[Pixels, Sequence[int]]]) -> Listing:
    """List the images of some batches; each is fetched as the file of an image, and so read like all others."""
    keys = Texts(f"{batch}/{row:05d}" for batch, (pixels, _) in batches.items() for row in range(len(pixels)))
    labels = ColumnBuilder({name.strip(): number for number, name in enumerate(names)})
    try:
        for _, numbers in batches.values():
            for number in numbers:
                labels.add(names[number].strip())
    except (IndexError, TypeError) as error:
        raise UserError(f"{', '.join(batches)} of CIFAR hold labels beyond the {len(names)} names") from error
    pixels = np.concatenate([pixels for pixels, _ in batches.values()])
    return Listing(Table(keys=keys, label=labels.build()), partial(_file, pixels))


def _file(pixels: Pixels, row: int) -> bytes:
    """Return an image as a BMP: rows from the bottom up, blue first."""
    image = pixels[row].reshape(CHANNELS, SIDE, SIDE)[::-1, ::-1].transpose(1, 2, 0)  # [row, column, channel]
    data: bytes = _BMP + image.tobytes()
    return data


def _batch(path: Path, labels: str) -> tuple[Pixels, Sequence[int]]:
    found = _unpickled(path)
    pixels, numbers = _value(path, found, "data"), _value(path, found, labels)
    if not isinstance(pixels, np.ndarray) or pixels.shape != (len(numbers), _PIXELS):
        raise UserError(f"{path} holds no rows of {_PIXELS:,} bytes with a label each; it is no batch of CIFAR")
    return pixels, numbers


def _records(path: Path, heads: int) -> tuple[Pixels, Sequence[int]]:
    """Read records of labels, of which the last counts, and pixels."""
    try:
        data = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    except OSError as error:
        raise UserError(f"cannot open {path}: {reason(error)}") from error
    if not len(data) or len(data) % (heads + _PIXELS):
        raise UserError(f"{path} has {len(data):,} bytes, expected records of {heads + _PIXELS:,}; it is cut short")
    rows = data.reshape(-1, heads + _PIXELS)
    return rows[:, heads:], rows[:, heads - 1].tolist()


def _value(path: Path, found: Any, name: str) -> Any:
    if not isinstance(found, dict) or name not in found:
        raise UserError(f"{path} holds no {name}; it is no file of CIFAR")
    return found[name]


def _unpickled(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            # Python 2 wrote them: its strings are bytes, which Latin-1 leaves as they are
            return _Reader(file, encoding="latin1").load()
    except OSError as error:
        raise UserError(f"cannot open {path}: {reason(error)}") from error
    except Exception as error:  # of a damaged file it raises what it likes
        raise UserError(f"{path} is no whole file of CIFAR: {line_of(error)}") from error


@final
class _Reader(pickle.Unpickler):
    """Builds dictionaries, lists, words, numbers and arrays of bytes, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for the few names that such files need."""
        known = {
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): _bytes_only,
            ("numpy.core.multiarray", "_reconstruct"): _empty,
            ("numpy._core.multiarray", "_reconstruct"): _empty,
            ("_codecs", "encode"): _encoded,
        }
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no such file needs")
        return known[module, name]


def _bytes_only(kind: str, *_: Any) -> np.dtype[Any]:
    if kind != "u1":
        raise pickle.UnpicklingError(f"it holds an array of {kind}, expected bytes")
    return np.dtype(np.uint8)


def _empty(*_: Any) -> Any:
    """Return the array that its state then fills."""
    return np.empty(0, dtype=np.uint8)


def _encoded(text: str, *_: Any) -> bytes:
    return text.encode("latin1")
