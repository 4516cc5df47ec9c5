"""What is compared is of length 1 and weighs CLS and GeM alike."""

import numpy as np
import pytest

from dinokit.search.descriptors import described
from tests.search.indices import noise


def test_both_is_the_mean_of_the_two_cosines_however_long_the_halves_are() -> None:
    rows = noise(5, 12)
    rows[:, 6:] *= 0.1  # of a smaller scale, as patches may be
    cls, gem, both = (described(rows, by, feature="cls+gem") for by in ("cls", "gem", "both"))
    assert np.allclose(both @ both.T, (cls @ cls.T + gem @ gem.T) / 2, atol=1e-6)
    for each in (cls, gem, both):
        assert np.allclose(np.linalg.norm(each, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("feature", ["cls+gem", "cls+patches"])
def test_cls_is_the_first_half_of_a_longer_feature(feature: str) -> None:
    rows = noise(3, 8)
    first = rows[:, :4].astype(np.float64)
    exact = first / np.linalg.norm(first, axis=1, keepdims=True)
    assert np.allclose(described(rows, "cls", feature=feature), exact, atol=1e-6)
