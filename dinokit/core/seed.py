"""Randomness as a function: every draw follows from a few integers such as (seed, step, sample).

Nothing then depends on how many workers, ranks or interruptions there were, and no generator state needs saving.
NumPy's SeedSequence fills short keys up with zeros, so that (1, 2) and (1, 2, 0) would be one stream: the length of a
key is therefore part of it.
"""

from typing import final

import numpy
from jaxtyping import Int64


def generator(*key: int) -> numpy.random.Generator:
    """Make a NumPy generator that is a pure function of the integers (each >= 0)."""
    return numpy.random.default_rng((len(key), *key))


def derived(*key: int) -> int:
    """Return a seed, for torch, that is a pure function of the integers (each >= 0); `seed + 1` is another run's."""
    # 63 bits: torch takes a signed integer
    return int(numpy.random.SeedSequence((len(key), *key)).generate_state(1, numpy.uint64)[0] >> numpy.uint64(1))


@final
class Passes:
    """The endless sequence in which every number below `length` comes once per pass, in a new order each.

    Position p is entry p mod length of permutation p div length: a pure function of the key and the position. Ranks and
    loader processes take their slices of that one sequence, so that their number does not change it, and going on after
    a stop is arithmetic.
    """

    def __init__(self, length: int, *key: int) -> None:
        self.length = length
        self._key = key
        self._known: dict[int, Int64[numpy.ndarray, "entry"]] = {}

    def indices(self, start: int, count: int) -> Int64[numpy.ndarray, "count"]:
        """Return what stands at positions start .. start + count."""
        return self.at(numpy.arange(start, start + count))

    def at(self, positions: Int64[numpy.ndarray, "count"]) -> Int64[numpy.ndarray, "count"]:
        """Return what stands at some positions."""
        turns, entries = positions // self.length, positions % self.length
        out = numpy.empty(len(positions), dtype=numpy.int64)
        for turn in numpy.unique(turns).tolist():
            if turn not in self._known:
                before = {key: value for key, value in self._known.items() if key == turn - 1}
                self._known = before | {turn: generator(*self._key, turn).permutation(self.length)}
            out[turns == turn] = self._known[turn][entries[turns == turn]]
        return out
