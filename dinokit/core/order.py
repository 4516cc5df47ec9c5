"""Orders that many need: names as a person counts them, a few of many evenly spaced, every one once per pass."""

import re
from typing import final

import numpy as np
from jaxtyping import Int64

from dinokit.core.seed import generator

_DIGITS = re.compile("([0-9]+)")


def natural(name: str) -> tuple[list[str | tuple[int, str]], str]:
    """Return a key that sorts names with every run of digits as a number: frame_2 before frame_10, f9999 before f10000.

    For what is a sequence, such as the frames of a film; names that differ in leading zeros alone follow the alphabet.
    """
    parts = _DIGITS.split(name)  # text and digits by turns
    numbers = ((len(number), number) for number in (part.lstrip("0") for part in parts[1::2]))
    key: list[str | tuple[int, str]] = list(parts)
    key[1::2] = numbers  # not as int, which refuses thousands of digits
    return key, name


def evenly(count: int | None, total: int) -> Int64[np.ndarray, "chosen"]:
    """Return the places of so many of `total`, evenly spaced, the first and the last among them; None takes all."""
    count = total if count is None else min(count, total)
    places: Int64[np.ndarray, "chosen"] = np.linspace(0, total - 1, count).round().astype(np.int64)
    return places


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
        self._known: dict[int, Int64[np.ndarray, "entry"]] = {}

    def indices(self, start: int, count: int) -> Int64[np.ndarray, "count"]:
        """Return what stands at positions start .. start + count."""
        return self.at(np.arange(start, start + count))

    def at(self, positions: Int64[np.ndarray, "count"]) -> Int64[np.ndarray, "count"]:
        """Return what stands at some positions."""
        turns, entries = positions // self.length, positions % self.length
        out = np.empty(len(positions), dtype=np.int64)
        for turn in np.unique(turns).tolist():
            if turn not in self._known:
                before = {key: value for key, value in self._known.items() if key == turn - 1}
                self._known = before | {turn: generator(*self._key, turn).permutation(self.length)}
            out[turns == turn] = self._known[turn][entries[turns == turn]]
        return out
