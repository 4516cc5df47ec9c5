"""Names in the order in which a person counts, and a few of many."""

import numpy as np
import pytest

from dinokit.core.order import evenly, natural


@pytest.mark.parametrize(
    "names",
    [
        [f"frame_{number}.png" for number in range(1, 13)],
        ["f9995", "f9999", "f10000", "f10004"],
        ["clip2/frame_10", "clip10/frame_2"],
        ["1-2", "1-10", "2-1"],
        ["a", "a01", "a1", "a1b", "b"],  # equal numbers: by the alphabet
        ["x" + "9" * 5000, "x1" + "0" * 5000],
    ],
)
def test_runs_of_digits_compare_as_numbers(names: list[str]) -> None:
    names_as_text = sorted(names)
    assert sorted(names_as_text, key=natural) == names


@pytest.mark.parametrize(("count", "total", "places"), [(3, 7, [0, 3, 6]), (None, 3, [0, 1, 2]), (9, 2, [0, 1])])
def test_evenly_spaced_places_hold_both_ends(count: int | None, total: int, places: list[int]) -> None:
    assert evenly(count, total).tolist() == places
    assert evenly(1, total).tolist() == [0]
    assert evenly(count, 0).dtype == np.int64
