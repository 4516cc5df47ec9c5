"""Orders that many need: names as a person counts them, a few of many evenly spaced, classes by turns."""

import re

import numpy as np
from jaxtyping import Int64

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


def in_turns(labels: Int64[np.ndarray, " row"]) -> Int64[np.ndarray, " row"]:
    """Return the order of rows in which one of each label comes before a second of any, else as they are."""
    by_label = np.argsort(labels, kind="stable")
    turn = np.empty_like(by_label)  # the how many-th of its label each is
    turn[by_label] = np.arange(len(labels)) - np.searchsorted(labels[by_label], labels[by_label])
    return np.argsort(turn, kind="stable")
