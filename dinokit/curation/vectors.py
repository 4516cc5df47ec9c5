"""Vectors on disk: rows of float16 in one or more .npy files, read piece by piece; or rows in memory, read the same.

A pool of images may be larger than memory. What was read is copied and its file closed again at once, so that the
memory of a process is what it asked for, not what it has ever looked at (a page of a mapped file counts as used until
the mapping ends).
"""

import copy
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import final

import numpy as np
from jaxtyping import Float, Float16, Float32, Int64

from dinokit.core.messages import UserError, reason

SPAN = 1 << 24  # numbers of a part that are mapped at a time
BLOCK = 1 << 24  # numbers that are read at a time where nothing else is said


@final
class Vectors:
    """The rows of several parts, one after the other, or some of them."""

    def __init__(
        self,
        parts: Sequence[Path | Float16[np.ndarray, "row dim"] | Float32[np.ndarray, "row dim"]],
        chosen: Int64[np.ndarray, " row"] | None = None,
    ) -> None:
        """Look at the headers.

        Args:
            parts: .npy files of float16, or arrays, all of one type.
            chosen: the rows of all parts that belong, in this order; None = all.

        Raises:
            UserError: if a part cannot be read, is not a float16 matrix, or has another width than the first.
        """
        self.parts = [part if isinstance(part, np.ndarray) else Path(part) for part in parts]
        opened = [self._open(part) for part in self.parts]
        if not opened:
            raise UserError("expected vectors, got no part that holds any")
        shapes, self.dtype = [array.shape for array in opened], opened[0].dtype
        self.dim = int(shapes[0][1])
        for part, shape in zip(self.parts, shapes, strict=True):
            if shape[1] != self.dim:
                raise UserError(f"{part} has vectors of {shape[1]} numbers, the first part of {self.dim}; embed anew")
        self.ends: Int64[np.ndarray, " part"] = np.cumsum([shape[0] for shape in shapes])
        self.chosen = chosen
        self.block = BLOCK  # numbers that are read at a time

    def __len__(self) -> int:
        return int(self.ends[-1]) if self.chosen is None else len(self.chosen)

    def subset(self, rows: Int64[np.ndarray, " row"]) -> "Vectors":
        """Return some of the rows, in the order asked for; nothing is read."""
        some = copy.copy(self)
        some.chosen = rows if self.chosen is None else self.chosen[rows]
        return some

    def read(self, start: int, stop: int) -> Float[np.ndarray, "row dim"]:
        """Return a copy of some rows that follow each other."""
        stop, found = min(stop, len(self)), []
        if self.chosen is not None:
            return self.take(np.arange(start, stop))
        for part, end in zip(self.parts, self.ends.tolist(), strict=True):
            array = self._open(part) if start < end and start < stop else None
            if array is not None:
                first = end - len(array)
                found.append(np.array(array[start - first : min(stop, end) - first]))
                start = min(stop, end)
        return np.concatenate(found) if found else np.empty((0, self.dim), dtype=self.dtype)

    def take(self, rows: Int64[np.ndarray, " wanted"]) -> Float[np.ndarray, "wanted dim"]:
        """Return a copy of some rows, in the order asked for."""
        rows = rows if self.chosen is None else self.chosen[rows]
        out = np.empty((len(rows), self.dim), dtype=self.dtype)
        parts = np.searchsorted(self.ends, rows, side="right")
        for number in np.unique(parts).tolist():
            mine = np.flatnonzero(parts == number)
            places = rows[mine] - (self.ends[number - 1] if number else 0)
            order = np.argsort(places, kind="stable")  # a disk likes to be read forwards
            stretch = places[order] // max(SPAN // self.dim, 1)
            for piece in np.split(order, np.flatnonzero(np.diff(stretch)) + 1):
                out[mine[piece]] = self._open(self.parts[number])[places[piece]]  # and a mapping ends with its stretch
        return out

    def blocks(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, Float[np.ndarray, "row dim"]]]:
        """Yield (first row, rows) of pieces of bounded size."""
        stop = len(self) if stop is None else stop
        for first in range(start, stop, self._step):
            yield first, self.read(first, min(first + self._step, stop))

    def pieces(self, start: int = 0, stop: int | None = None) -> int:
        """Return how many `blocks` yields."""
        return len(range(start, len(self) if stop is None else stop, self._step))

    @property
    def _step(self) -> int:
        return max(self.block // self.dim, 1)

    def _open(self, part: Path | Float[np.ndarray, "row dim"]) -> Float[np.ndarray, "row dim"]:
        if isinstance(part, np.ndarray):
            return part
        try:
            array: np.ndarray = np.load(part, mmap_mode="r", allow_pickle=False)
        except OSError as error:
            raise UserError(f"cannot read {part}: {reason(error)}; run the step that writes it again") from error
        except (ValueError, EOFError) as error:
            raise UserError(
                f"{part} is no whole .npy file of numbers: {error}; delete it and run the step again"
            ) from error
        if array.ndim != 2 or array.dtype != np.float16:
            raise UserError(f"{part} holds {array.dtype} of shape {array.shape}, expected rows of float16")
        return array


def check_finite(vectors: Vectors, *, first: int = 0) -> str:
    """Refuse vectors that no distance can be computed of, and return the digest of what was read (core/files.py).

    Args:
        first: the number of the first row, for the message.

    Raises:
        UserError: if one holds NaN or infinity, or has length zero; names its row.
    """
    digest = blake2b(digest_size=16)
    for start, rows in vectors.blocks():
        digest.update(rows.reshape(-1).view(np.uint8).data)  # no copy, and of one axis, else hashlib refuses
        sizes = np.einsum("rd,rd->r", rows, rows, dtype=np.float32)
        wrong = np.flatnonzero(~np.isfinite(sizes) | (sizes == 0))
        if len(wrong):
            what = "zeros alone" if sizes[wrong[0]] == 0 else "numbers that are not finite"
            raise UserError(f"row {first + start + wrong[0]:,} of the embeddings holds {what}; embed again")
    return digest.hexdigest()
