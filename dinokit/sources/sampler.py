"""In which order images are seen: a pure function of the seed and the position, with no state to save.

One source: there are no epochs and no remainders, but one endless sequence of passes (`core.seed.Passes`).

Several sources: each has its own such sequence, and is shared out so that counting stays arithmetic. Every 10,000
positions hold each source as often as its weight says, in random order; so do every 1,000 steps hold the steps whose
whole batch comes from one source (DINOv3, arXiv:2508.10104, section 3.1: 10 % of the batches are ImageNet-1k alone).
"""

from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Int64

from dinokit.core.messages import UserError
from dinokit.core.seed import Passes, generator

_STREAM = 0  # keeps these random numbers apart from the views (1), the masks (2) and the replacements (3)
_SHARES, _ALONE = 4, 5
POSITIONS, STEPS = 10_000, 1_000  # after which the shares repeat


@dataclass(frozen=True)
class Mix:
    """Several sources, one after the other in one list of images, and their shares, refused if they cannot be met."""

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
class MixedOrder:
    """The endless sequence of several sources; every source goes through permutations of its own."""

    def __init__(self, mix: Mix, *, seed: int, batch: int) -> None:
        self.seed = seed
        self.batch = batch
        self._ends = np.cumsum(mix.lengths)
        self._passes = [Passes(length, seed, _STREAM, part) for part, length in enumerate(mix.lengths)]
        self._shares = _Blocks(mix.positions, (seed, _SHARES))
        self._alone = _Blocks((STEPS - sum(mix.steps), *mix.steps), (seed, _ALONE))  # first: the mixed steps

    def indices(self, start: int, count: int) -> Int64[np.ndarray, "count"]:
        """Return the images at positions start .. start + count of the sequence."""
        steps = range(start // self.batch, (start + count - 1) // self.batch + 1) if count else ()
        parts = [self._step(step) for step in steps]
        first = start % self.batch
        return np.concatenate([np.empty(0, dtype=np.int64), *parts])[first : first + count]

    def _step(self, step: int) -> Int64[np.ndarray, "batch"]:
        kind, before = self._alone.counted(step, 1)
        mixed_before, *alone_before = (before[0] * self.batch).tolist()
        parts, seen = self._shares.counted(mixed_before, self.batch if kind[0] == 0 else 1)
        if kind[0] > 0:  # the whole batch of one source
            parts = np.repeat(kind - 1, self.batch)
            seen = seen + np.arange(self.batch)[:, None]  # [place, kind]
        out = np.empty(self.batch, dtype=np.int64)
        for part in np.unique(parts).tolist():
            chosen, images = parts == part, self._passes[part]
            out[chosen] = self._ends[part] - images.length + images.at(alone_before[part] + seen[chosen, part])
        return out


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
            if number not in self._known:
                block = generator(*self.key, number).permutation(np.repeat(np.arange(len(self.counts)), self.counts))
                each = block[:, None] == np.arange(len(self.counts))  # [place, kind]
                self._known = {key: value for key, value in self._known.items() if key == number - 1}
                self._known[number] = (block, number * self.counts + np.cumsum(each, axis=0) - each)
            part = slice(max(start - number * length, 0), start + count - number * length)
            kinds.append(self._known[number][0][part])
            before.append(self._known[number][1][part])
        return np.concatenate(kinds), np.concatenate(before)


Order = Passes | MixedOrder


def order(length: int, mix: Mix | None, *, seed: int, batch: int) -> Order:
    """Return the endless sequence of one source or of several, `Source.order`."""
    return Passes(length, seed, _STREAM) if mix is None else MixedOrder(mix, seed=seed, batch=batch)
