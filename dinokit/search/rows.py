"""The rows that are searched: those of several pools, one pool behind the other, without those that were removed.

A row's number is its place in all pools together and stays when others are removed. What is compared (descriptors.py)
is computed as it is read, piece by piece; it is held in memory where that is small.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from threading import Lock
from typing import Any

import numpy
from jaxtyping import Bool, Float, Float32, Int64

from dinokit.curation.pool import Pool
from dinokit.search.descriptors import By, described

STEP = 1 << 22  # numbers that are made at a time
HELD = 1 << 28  # numbers of all rows that are held in memory: 1 GiB


@dataclass(frozen=True)
class Rows:
    """Rows of pools, as they are compared."""

    pools: Sequence[Pool]
    by: By
    alive: Bool[numpy.ndarray, " row"]  # the others were removed
    _lock: Any = field(default_factory=Lock, init=False, repr=False, compare=False)  # of what is held

    def __len__(self) -> int:
        """Return how many are searched."""
        return len(self.numbers)

    @cached_property
    def numbers(self) -> Int64[numpy.ndarray, " alive"]:
        """The rows that are searched."""
        return numpy.flatnonzero(self.alive)

    @cached_property
    def starts(self) -> Int64[numpy.ndarray, " pool"]:
        """The number of the first row of each pool."""
        return numpy.cumsum([0, *map(len, self.pools)])[:-1]

    @cached_property
    def dim(self) -> int:
        """How many numbers are compared."""
        return int(self._described(0, self.pools[0].vectors.read(0, 1)).shape[1])

    def pool_of(self, numbers: Int64[numpy.ndarray, " some"]) -> Int64[numpy.ndarray, " some"]:
        """Return which pool each row is of."""
        found: Int64[numpy.ndarray, " some"] = numpy.searchsorted(self.starts, numbers, side="right") - 1
        return found

    def place(self, number: int) -> tuple[int, int]:
        """Return which pool a row is of, and where it is there."""
        pool = int(self.pool_of(numpy.array([number]))[0])
        return pool, number - int(self.starts[pool])

    def take(self, numbers: Int64[numpy.ndarray, " wanted"]) -> Float32[numpy.ndarray, "wanted dim"]:
        """Return some rows that are searched, by their numbers."""
        if "_held" in self.__dict__:
            held: Float32[numpy.ndarray, "wanted dim"] = self._held[numpy.searchsorted(self.numbers, numbers)]
            return held
        found = numpy.empty((len(numbers), self.dim), numpy.float32)
        of = self.pool_of(numbers)
        for each in numpy.unique(of).tolist():
            mine = of == each
            found[mine] = self._described(each, self.pools[each].vectors.take(numbers[mine] - self.starts[each]))
        return found

    def blocks(self) -> Iterator[tuple[Int64[numpy.ndarray, " some"], Float32[numpy.ndarray, "some dim"]]]:
        """Yield numbers and rows of all that are searched, in their order; from memory where they are held."""
        if len(self) * self.dim <= HELD:
            with self._lock:  # several threads that ask at first would make a copy each
                held = self._held
            yield self.numbers, held
            return
        yield from self._read()

    @cached_property
    def _held(self) -> Float32[numpy.ndarray, "alive dim"]:
        found = numpy.empty((len(self), self.dim), numpy.float32)
        end = 0
        for numbers, rows in self._read():
            found[end : end + len(numbers)] = rows
            end += len(numbers)
        return found

    def _read(self) -> Iterator[tuple[Int64[numpy.ndarray, " some"], Float32[numpy.ndarray, "some dim"]]]:
        step = max(STEP // self.dim, 1)
        for number, (pool, start) in enumerate(zip(self.pools, self.starts.tolist(), strict=True)):
            for first in range(0, len(pool), step):
                some = numpy.flatnonzero(self.alive[start + first : start + min(first + step, len(pool))])
                if len(some):
                    rows = pool.vectors.read(first, first + step)[some]
                    yield start + first + some, self._described(number, rows)

    def _described(self, pool: int, rows: Float[numpy.ndarray, "row number"]) -> Float32[numpy.ndarray, "row dim"]:
        return described(rows, self.by, feature=self.pools[pool].stamp["feature"])
