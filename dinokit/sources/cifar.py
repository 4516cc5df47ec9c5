"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): all images of 32 x 32 pixels in a few files, in either form handed out.

The files for Python are pickles (`pickles.py`), those for other languages records of bytes.
"""

import struct
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from dinokit.core.messages import UserError, reason
from dinokit.sources.listings import Listing, lines
from dinokit.sources.pickles import unpickled
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
        names = _value(root / "batches.meta", unpickled(root / "batches.meta"), "label_names")
        return _images(names, {name: _batch(root / name, "labels") for name in _BATCHES[split]})
    names = [*lines(root / "batches.meta.txt")]
    return _images(names, {name: _records(root / f"{name}.bin", 1) for name in _BATCHES[split]})


def hundred(root: Path, split: str) -> Listing:
    """Read CIFAR-100, by its 100 fine classes: one file to learn from, one to test on."""
    if (root / "meta").exists():
        names = _value(root / "meta", unpickled(root / "meta"), "fine_label_names")
        return _images(names, {split: _batch(root / split, "fine_labels")})
    return _images([*lines(root / "fine_label_names.txt")], {split: _records(root / f"{split}.bin", 2)})


def _images(names: Sequence[str], batches: Mapping[str, tuple[Pixels, Sequence[int]]]) -> Listing:
    """List the images of some batches; each is fetched as the file of an image, and so read like all others."""
    keys = Texts(f"{batch}/{row:05d}" for batch, (pixels, _) in batches.items() for row in range(len(pixels)))
    labels = ColumnBuilder({name.strip(): number for number, name in enumerate(names)})
    numbers = [number for _, each in batches.values() for number in each]
    if not {*numbers} <= {*range(len(names))}:
        raise UserError(f"{', '.join(batches)} of CIFAR hold labels beyond the {len(names)} names")
    for number in numbers:
        labels.add(names[number].strip())
    pixels = np.concatenate([pixels for pixels, _ in batches.values()])
    return Listing(Table(keys=keys, label=labels.build()), partial(_file, pixels))


def _file(pixels: Pixels, row: int) -> bytes:
    """Return an image as a BMP: rows from the bottom up, blue first."""
    image = pixels[row].reshape(CHANNELS, SIDE, SIDE)[::-1, ::-1].transpose(1, 2, 0)  # [row, column, channel]
    data: bytes = _BMP + image.tobytes()
    return data


def _batch(path: Path, labels: str) -> tuple[Pixels, Sequence[int]]:
    found = unpickled(path)
    pixels, numbers = _value(path, found, "data"), _value(path, found, labels)
    rows = isinstance(numbers, list) and isinstance(pixels, np.ndarray) and pixels.shape == (len(numbers), _PIXELS)
    if not rows or pixels.dtype != np.uint8:
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
