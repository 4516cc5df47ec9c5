"""The order is one permutation after the other, whoever asks for whatever part of it."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dinokit.sources.sampler import Order


@given(length=st.integers(1, 30), passes=st.integers(1, 4), seed=st.integers(0, 5))
def test_every_pass_shows_every_image_once(length: int, passes: int, seed: int) -> None:
    sequence = Order(length, seed=seed).indices(0, length * passes).reshape(passes, length)
    assert (np.sort(sequence, axis=1) == np.arange(length)).all()


@given(start=st.integers(0, 100), count=st.integers(0, 40))
def test_a_part_is_the_part_of_the_whole(start: int, count: int) -> None:
    whole = Order(7, seed=3).indices(0, 140)
    assert np.array_equal(Order(7, seed=3).indices(start, count), whole[start : start + count])


def test_passes_and_seeds_differ() -> None:
    first, second = Order(50, seed=0).indices(0, 100).reshape(2, 50)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, Order(50, seed=1).indices(0, 50))


def test_going_back_in_time_gives_the_same() -> None:
    order = Order(5, seed=0)
    early = order.indices(0, 5)
    order.indices(500, 5)
    assert np.array_equal(order.indices(0, 5), early)
