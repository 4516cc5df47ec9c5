"""A normalisation fits the images it is for."""

import math

import pytest

from dinokit.core.errors import UserError
from dinokit.images.normalisation import Pixels


def test_one_value_serves_any_number_of_channels_and_others_must_match() -> None:
    Pixels((0.5,), (0.5,)).check_channels(7)
    Pixels().check_channels(3)
    with pytest.raises(UserError, match="3 values, the images 4 channels"):
        Pixels().check_channels(4)


@pytest.mark.parametrize(
    "wrong", [((0.5,), (0.5, 0.5)), ((0.5,), (0.0,)), ((), ()), ((math.nan,), (0.5,)), ((0.5,), (math.nan,))]
)
def test_impossible_normalisations_are_refused(wrong: tuple[tuple[float, ...], tuple[float, ...]]) -> None:
    with pytest.raises(UserError, match="pixels|mean|std"):
        Pixels(*wrong)
