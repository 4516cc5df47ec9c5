"""In which order images are seen: one permutation after the other, a pure function of the seed.

There are no epochs and no remainders: position p of the endless sequence is entry p mod N of permutation p div N. Ranks
and loader processes take their slices of that one sequence, so their number does not change it, and resuming is
arithmetic.
"""

from typing import final

import numpy as np
from jaxtyping import Int64

from dinokit.core.seed import generator

_STREAM = 0  # keeps these random numbers apart from the views (1), the masks (2) and the replacements (3)


@final
class Order:
    """The endless sequence of image indices of a run; every pass over the data is a new permutation."""

    def __init__(self, length: int, *, seed: int) -> None:
        self.length = length
        self.seed = seed
        self._passes: dict[int, Int64[np.ndarray, "sample"]] = {}

    def indices(self, start: int, count: int) -> Int64[np.ndarray, "count"]:
        """Return the images at positions start .. start + count of the sequence."""
        positions = np.arange(start, start + count)
        number, entry = positions // self.length, positions % self.length
        out = np.empty(count, dtype=np.int64)
        for one in np.unique(number):
            chosen = number == one
            out[chosen] = self._permutation(int(one))[entry[chosen]]
        return out

    def _permutation(self, number: int) -> Int64[np.ndarray, "sample"]:
        if number not in self._passes:
            self._passes = {key: value for key, value in self._passes.items() if key == number - 1}
            self._passes[number] = generator(self.seed, _STREAM, number).permutation(self.length)
        return self._passes[number]
