"""Features of patches as octets, and what is kept of them, bounded by bytes.

    uint32 rows, columns, dim | float32 scale [rows * columns] | int8 value [rows * columns * dim]      little-endian

scale x value is the feature of a patch made length 1. With 127 steps either way the cosines of two patches keep their
order (Spearman above 0.99, tests/studio/test_store.py) at a quarter of the bytes of float32, and a page multiplies
them as they came.
"""

import struct
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from threading import Lock
from typing import final

import numpy
import torch
from jaxtyping import Float32, Int8, UInt8
from torch import Tensor

from dinokit.core.messages import RunError
from dinokit.features.embedding import unit

HEAD = struct.Struct("<3I")
STEPS = 127  # of int8, either way
TINY = numpy.finfo(numpy.float64).tiny
ROWS = 4096  # patches that are made length 1 at a time, in float64


@dataclass(frozen=True)
class Patches:
    """Features of the patches of an image, of length 1, as the octets hold them."""

    rows: int
    columns: int
    scales: Float32[numpy.ndarray, " patch"]
    values: Int8[numpy.ndarray, "patch dim"]

    def at(self, row: int, column: int) -> Float32[numpy.ndarray, " dim"]:
        """Return the feature of a patch."""
        place = row * self.columns + column
        feature: Float32[numpy.ndarray, " dim"] = self.scales[place] * self.values[place].astype(numpy.float32)
        return feature

    def cosines(self, feature: Float32[numpy.ndarray, " dim"]) -> Float32[numpy.ndarray, " patch"]:
        """Return the cosine of every patch with a feature of length 1."""
        found = numpy.empty(len(self.values), dtype=numpy.float32)
        for first in range(0, len(found), ROWS):
            part = slice(first, first + ROWS)
            found[part] = self.scales[part] * (self.values[part].astype(numpy.float32) @ feature)
        return found


def octets(patches: Float32[Tensor, "rows columns dim"], *, name: str) -> bytes:
    """Write the features of the patches of an image.

    Raises:
        RunError: if one is not finite; `name` says whose.
    """
    rows, columns, dim = patches.shape
    scales = numpy.empty(rows * columns, dtype="<f4")
    values = numpy.empty((rows * columns, dim), dtype=numpy.int8)
    for first, some in zip(range(0, len(scales), ROWS), torch.split(patches.flatten(0, 1), ROWS), strict=True):
        if not bool(torch.isfinite(some).all()):
            raise RunError(f"{name} gives features that are not finite; its weights are broken")
        vectors, part = unit(some).numpy(), slice(first, first + ROWS)
        largest = numpy.abs(vectors).max(axis=1, keepdims=True)
        steps = numpy.rint(STEPS * vectors / numpy.maximum(largest, TINY))
        values[part] = steps
        # of length 1 as they are stored: what rounding has done to a feature then lies across it, not along it, where
        # all features of an untrained network have most of their length
        lengths = numpy.sqrt((steps**2).sum(axis=1))
        scales[part] = numpy.divide(1, lengths, out=numpy.zeros_like(lengths), where=lengths > 0)
    return HEAD.pack(rows, columns, dim) + scales.tobytes() + values.tobytes()


def patches(data: bytes) -> Patches:
    """Read what `octets` has written; nothing is copied."""
    rows, columns, dim = HEAD.unpack_from(data)
    scales = numpy.frombuffer(data, dtype="<f4", count=rows * columns, offset=HEAD.size)
    values = numpy.frombuffer(data, dtype=numpy.int8, offset=HEAD.size + scales.nbytes)
    return Patches(rows, columns, scales, values.reshape(rows * columns, dim))


def shares(attention: Float32[Tensor, "head rows columns"]) -> bytes:
    """Write how heads attend: uint32 maps, rows, columns, then uint8 of their mean and of each over its largest value.

    The mean is of what heads attend, not of what is written of each: one that looks everywhere a little would else
    weigh as much as one that looks at a place.
    """
    maps = torch.cat([attention.mean(dim=0, keepdim=True), attention])
    largest = maps.amax(dim=(1, 2), keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    drawn: UInt8[numpy.ndarray, "map rows columns"] = (255 * maps / largest).round().to(torch.uint8).numpy()
    return HEAD.pack(*maps.shape) + drawn.tobytes()


@final
class Kept:
    """Octets by name, up to so many bytes: for a new one those go that were not asked for longest. For any thread."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
        self._found: OrderedDict[Hashable, bytes] = OrderedDict()
        self._lock = Lock()

    def get(self, name: Hashable) -> bytes | None:
        """Return what is kept under a name."""
        with self._lock:
            if name in self._found:
                self._found.move_to_end(name)
            return self._found.get(name)

    def drop(self, unwanted: Callable[[Hashable], bool]) -> None:
        """Forget what is kept under some names."""
        with self._lock:
            for name in [each for each in self._found if unwanted(each)]:
                self.bytes -= len(self._found.pop(name))

    def put(self, name: Hashable, data: bytes) -> None:
        """Keep something, unless it alone is above the limit."""
        with self._lock:
            self.bytes += len(data) - len(self._found.pop(name, b""))
            self._found[name] = data
            while self.bytes > self.limit:
                self.bytes -= len(self._found.popitem(last=False)[1])
