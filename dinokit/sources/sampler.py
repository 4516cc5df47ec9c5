"""In which order images are seen: a pure function of the seed and the position, with no state to save.

One source: there are no epochs and no remainders; position p of the endless sequence is entry p mod N of permutation
p div N. Ranks and loader processes take their slices of that one sequence, so their number does not change it, and
resuming is arithmetic.

Several sources: each has its own such sequence, and is shared out so that counting stays arithmetic. Every 10,000
positions hold each source as often as its weight says, in random order; so do every 1,000 steps hold the steps whose
whole batch comes from one source (DINOv3, arXiv:2508.10104, section 3.1: 10 % of the batches are ImageNet-1k alone).
"""

from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Int64

from dinokit.core.errors import UserError
from dinokit.core.seed import generator

_STREAM = 0  # keeps these random numbers apart from the views (1), the masks (2) and the replacements (3)
_SHARES, _ALONE = 4, 5
POSITIONS, STEPS = 10_000, 1_000  # after which the shares repeat


@dataclass(frozen=True)
class Mix:
    """Several sources, one after the other in one list of images, and their shares in what is seen.

    Raises:
        UserError: if the shares are impossible, or too small to be met.
    """

    lengths: tuple[int, ...]  # images of each source
    weights: tuple[float, ...]  # relative; 0 = only in batches of its own
    alone: tuple[float, ...]  # probability that a whole batch comes from this source; the rest follow the weights

    def __post_init__(self) -> None:
        if min(self.weights) < 0 or min(self.alone) < 0 or sum(self.alone) > 1 + 1e-9:
            raise UserError(
                "weights must be >= 0, and the probabilities of homogeneous batches >= 0 and at most 1 in all"
            )
        if sum(self.weights) == 0 and sum(self.steps) < STEPS:
            raise UserError(
                "all weights are 0; give a source a weight, or homogeneous batches a probability of 1 in all"
            )
        for wanted, got, times in ((self.weights, self.positions, POSITIONS), (self.alone, self.steps, STEPS)):
            if any(one > 0 and not number for one, number in zip(wanted, got)):
                raise UserError(
                    f"shares below 1 in {times:,} cannot be met; raise {min(filter(None, wanted)):g} or make it 0"
                )

    @property
    def positions(self) -> tuple[int, ...]:
        """How many of `POSITIONS` positions of mixed batches each source has."""
        total = sum(self.weights) or 1
        exact = np.array(self.weights) / total * POSITIONS
        counts = np.floor(exact + 1e-9).astype(np.int64)
        missing = round(float(exact.sum())) - int(counts.sum())
        counts[np.argsort(counts - exact, kind="stable")[:missing]] += 1  # to the largest remainders
        return tuple(counts.tolist())

    @property
    def steps(self) -> tuple[int, ...]:
        """How many of `STEPS` steps each source has alone."""
        return tuple(round(one * STEPS) for one in self.alone)


@final
class Order:
    """The endless sequence of image indices of a run; every pass over the data is a new permutation."""

    def __init__(self, length: int, *, seed: int, part: int | None = None) -> None:
        self.length = length
        self._key = (seed, _STREAM) if part is None else (seed, _STREAM, part)
        self._passes: dict[int, Int64[np.ndarray, "sample"]] = {}

    def indices(self, start: int, count: int) -> Int64[np.ndarray, "count"]:
        """Return the images at positions start .. start + count of the sequence."""
        return self.at(np.arange(start, start + count))

    def at(self, positions: Int64[np.ndarray, "count"]) -> Int64[np.ndarray, "count"]:
        """Return the images at some positions of the sequence."""
        number, entry = positions // self.length, positions % self.length
        out = np.empty(len(positions), dtype=np.int64)
        for one in np.unique(number):
            chosen = number == one
            out[chosen] = self._permutation(int(one))[entry[chosen]]
        return out

    def alike(self, index: int) -> tuple[int, int]:
        """Return the range of images of which one may stand in for an image."""
        del index
        return 0, self.length

    def _permutation(self, number: int) -> Int64[np.ndarray, "sample"]:
        if number not in self._passes:
            self._passes = {key: value for key, value in self._passes.items() if key == number - 1}
            self._passes[number] = generator(*self._key, number).permutation(self.length)
        return self._passes[number]


@final
class MixedOrder:
    """The endless sequence of several sources; every source goes through permutations of its own.

    Args:
        batch: images per step, over all ranks; matters only where whole batches come from one source.
    """

    def __init__(self, mix: Mix, *, seed: int, batch: int) -> None:
        self.seed = seed
        self.batch = batch
        self._ends = np.cumsum(mix.lengths)
        self._orders = [Order(length, seed=seed, part=part) for part, length in enumerate(mix.lengths)]
        self._shares = _Blocks(mix.positions, (seed, _SHARES))
        self._alone = _Blocks((STEPS - sum(mix.steps), *mix.steps), (seed, _ALONE))  # first: the mixed steps

    def indices(self, start: int, count: int) -> Int64[np.ndarray, "count"]:
        """Return the images at positions start .. start + count of the sequence."""
        steps = range(start // self.batch, (start + count - 1) // self.batch + 1) if count else ()
        parts = [self._step(step) for step in steps]
        first = start % self.batch
        return np.concatenate([np.empty(0, dtype=np.int64), *parts])[first : first + count]

    def alike(self, index: int) -> tuple[int, int]:
        """Return the range of images of which one may stand in for an image: those of its source."""
        part = int(np.searchsorted(self._ends, index, side="right"))
        return int(self._ends[part]) - self._orders[part].length, int(self._ends[part])

    def _step(self, step: int) -> Int64[np.ndarray, "batch"]:
        kind, before = self._alone.counted(step, 1)
        mixed_before, *alone_before = (before[0] * self.batch).tolist()
        parts, seen = self._shares.counted(mixed_before, self.batch if kind[0] == 0 else 1)
        if kind[0] > 0:
            part = int(kind[0]) - 1
            first = alone_before[part] + int(seen[0, part])
            return self._image(part, first + np.arange(self.batch))
        out = np.empty(self.batch, dtype=np.int64)
        for part in np.unique(parts).tolist():
            chosen = parts == part
            out[chosen] = self._image(part, alone_before[part] + seen[chosen, part])
        return out

    def _image(self, part: int, turns: Int64[np.ndarray, "count"]) -> Int64[np.ndarray, "count"]:
        order = self._orders[part]
        return int(self._ends[part]) - order.length + order.at(turns)


@final
class _Blocks:
    """An endless sequence of kinds: each block holds every kind a fixed number of times, in its own random order."""

    def __init__(self, counts: tuple[int, ...], key: tuple[int, ...]) -> None:
        self.counts = np.array(counts, dtype=np.int64)
        self.key = key
        self._known: dict[int, tuple[Int64[np.ndarray, "place"], Int64[np.ndarray, "place kind"]]] = {}

    def counted(self, start: int, count: int) -> tuple[Int64[np.ndarray, "count"], Int64[np.ndarray, "count kind"]]:
        """Return the kinds at some places, and how often each kind came before each place."""
        length = int(self.counts.sum())
        if length == 0:  # no mixed batches at all
            return np.zeros(count, dtype=np.int64), np.zeros((count, len(self.counts)), dtype=np.int64)
        kinds, before = [], []
        for number in range(start // length, (start + count - 1) // length + 1):
            part = slice(max(start - number * length, 0), start + count - number * length)
            block = self._block(number)
            kinds.append(block[0][part])
            before.append(block[1][part])
        return np.concatenate(kinds), np.concatenate(before)

    def _block(self, number: int) -> tuple[Int64[np.ndarray, "place"], Int64[np.ndarray, "place kind"]]:
        if number not in self._known:
            kinds = generator(*self.key, number).permutation(np.repeat(np.arange(len(self.counts)), self.counts))
            each = kinds[:, None] == np.arange(len(self.counts))  # [place, kind]
            before = number * self.counts + np.cumsum(each, axis=0) - each
            self._known = {key: value for key, value in self._known.items() if key == number - 1}
            self._known[number] = (kinds, before)
        return self._known[number]
