"""Names in the order in which a person counts, a few of many, every one once per pass."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinokit.core.order import evenly, in_turns, natural
from dinokit.core.seed import Passes


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


def test_one_of_each_class_comes_before_a_second_of_any() -> None:
    labels = np.array([3, 3, -1, 3, 0, -1, 0])
    assert in_turns(labels).tolist() == [0, 2, 4, 1, 5, 6, 3]  # among equals the order stays


@given(length=st.integers(1, 30), passes=st.integers(1, 4), seed=st.integers(0, 5))
def test_every_pass_shows_every_image_once(length: int, passes: int, seed: int) -> None:
    sequence = Passes(length, seed).indices(0, length * passes).reshape(passes, length)
    assert (np.sort(sequence, axis=1) == np.arange(length)).all()


@given(start=st.integers(0, 100), count=st.integers(0, 40))
def test_a_part_is_the_part_of_the_whole(start: int, count: int) -> None:
    whole = Passes(7, 3).indices(0, 140)
    assert np.array_equal(Passes(7, 3).indices(start, count), whole[start : start + count])


def test_passes_and_seeds_differ() -> None:
    first, second = Passes(50, 0).indices(0, 100).reshape(2, 50)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, Passes(50, 1).indices(0, 50))


def test_going_back_in_time_gives_the_same() -> None:
    order = Passes(5, 0)
    early = order.indices(0, 5)
    order.indices(500, 5)
    assert np.array_equal(order.indices(0, 5), early)
