"""The generalised mean lies between the mean and the largest, and stands behind CLS."""

import pytest
import torch

from dinokit.models.gem import LEAST, WithGem
from dinokit.models.pixels import PatchPixels
from tests.conftest import MakeVit

IMAGES = torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(0))


def test_power_1_is_the_mean_and_a_large_one_the_largest() -> None:
    pixels = PatchPixels(patch_size=4)  # whose values are above 0
    features = pixels(IMAGES)
    for power, wanted in ((1.0, features.patches.mean(dim=1)), (40.0, features.patches.amax(dim=1))):
        found = WithGem(power)(pixels, IMAGES)
        torch.testing.assert_close(found, torch.cat([features.cls, wanted], dim=-1), rtol=0.05, atol=0)


def test_values_below_zero_count_as_none(make_vit: MakeVit) -> None:
    backbone = make_vit(size=None)
    features = backbone(IMAGES)
    found = WithGem(4.0)(backbone, IMAGES)
    assert torch.equal(found[:, :16], features.cls)
    by_hand = (features.patches.clamp(min=LEAST) ** 4).mean(dim=1) ** 0.25
    torch.testing.assert_close(found[:, 16:], by_hand)
    assert (features.patches < 0).any()
    assert (found[:, 16:] > 0).all()


def test_its_name_and_power_are_in_the_key() -> None:
    assert repr(WithGem(4.0)) == "WithGem(power=4.0)"
    with pytest.raises(AttributeError):
        WithGem(4.0).power = 3.0  # type: ignore[misc]
