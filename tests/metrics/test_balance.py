import math

import numpy as np
import pytest

from dinokit.metrics.balance import entropy, gini


def test_equal_groups_are_balanced() -> None:
    assert gini(np.array([7, 7, 7])) == 0
    assert entropy(np.array([7, 7, 7])) == pytest.approx(1)


def test_one_group_with_everything_is_not() -> None:
    assert gini(np.array([0, 0, 0, 12])) == pytest.approx(3 / 4)
    assert entropy(np.array([0, 0, 0, 12])) == 0


def test_gini_is_half_the_mean_difference_over_the_mean() -> None:
    sizes = np.array([9, 1, 4, 2])
    apart = np.abs(sizes[:, None] - sizes).mean()
    assert gini(sizes) == pytest.approx(apart / 2 / sizes.mean())


def test_entropy_by_hand() -> None:
    assert entropy(np.array([1, 3])) == pytest.approx(-(0.25 * math.log(0.25) + 0.75 * math.log(0.75)) / math.log(2))


def test_nothing_at_all() -> None:
    assert gini(np.array([0, 0])) == 0
    assert entropy(np.array([5])) == 1
