import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinokit.curation.sample import below, budgets, sample


def _one(sizes: list[int], total: int, seed: int = 0) -> list[int]:
    zeros = np.zeros(len(sizes), dtype=np.int64)
    found = budgets(np.array(sizes), zeros, np.array([total]), draw=np.random.default_rng(seed))
    return found.tolist()


def test_worked_example() -> None:
    assert _one([2, 5, 100], 30) == [2, 5, 23]
    assert sorted(_one([10, 10, 10], 20)) == [6, 7, 7]
    assert _one([2 * 1, 2 * 1], 5) == [2, 2]  # twice each: all there is
    assert _one([3, 0, 4], 0) == [0, 0, 0]
    assert _one([], 3) == []


def test_what_is_left_goes_by_lot() -> None:
    assert {tuple(_one([10, 10, 10], 19, seed)) for seed in range(20)} == {(7, 6, 6), (6, 7, 6), (6, 6, 7)}


def _poured(sizes: np.ndarray, total: int) -> np.ndarray:
    """Pour drop by drop: the level by definition, without the lot."""
    level = 0
    while level < sizes.max(initial=0) and np.minimum(level + 1, sizes).sum() <= total:
        level += 1
    return np.minimum(level, sizes)


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 3)), max_size=25),
    st.lists(st.integers(0, 60), min_size=4, max_size=4),
)
def test_siblings_share_a_level_and_spend_the_budget(children: list[tuple[int, int]], totals: list[int]) -> None:
    sizes = np.array([size for size, _ in children], dtype=np.int64)
    parents = np.array([parent for _, parent in children], dtype=np.int64)
    found = budgets(sizes, parents, np.array(totals), draw=np.random.default_rng(0))
    for parent, total in enumerate(totals):
        mine = parents == parent
        more = found[mine] - _poured(sizes[mine], total)
        assert set(more.tolist()) <= {0, 1}
        assert (found[mine] <= sizes[mine]).all()
        assert found[mine].sum() == min(total, sizes[mine].sum())


PARENTS = [np.array([0] * 50 + [1] * 8 + [2] * 2 + [3] * 40), np.array([0, 1, 1, 0])]  # 100 rows, 4 clusters, 2 above


def test_sizes_are_of_rows_on_every_level() -> None:
    assert [each.tolist() for each in below(PARENTS, 100)] == [[50, 8, 2, 40], [90, 10]]


@pytest.mark.parametrize("size", [0, 1, 7, 20, 99, 100, 150])
@pytest.mark.parametrize("multiplier", [1, 2])
def test_exactly_so_many_rows_are_chosen(size: int, multiplier: int) -> None:
    rows = sample(PARENTS, np.arange(100.0), size, multiplier=multiplier)
    assert len(rows) == min(size, multiplier * 100)
    assert np.bincount(rows, minlength=100).max() <= multiplier
    assert (np.diff(rows) >= 0).all()


def test_branches_are_equal_before_leaves_are() -> None:
    rows = sample(PARENTS, np.arange(100.0), 20)
    counts = np.bincount(PARENTS[0][rows], minlength=4)
    assert counts.tolist() == [5, 8, 2, 5]  # ten above each; flat it would be 6, 6, 2, 6


def test_the_closest_or_any() -> None:
    apart = np.arange(100.0)[::-1].copy()
    closest = sample(PARENTS, apart, 20, closest=True)
    assert set(closest.tolist()) == {*range(45, 50), *range(50, 60), *range(95, 100)}
    drawn = [tuple(sample(PARENTS, apart, 20, seed=seed).tolist()) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
