"""Features and the raw-pixel backbone."""

import pytest
import torch

from dinokit.core.errors import UserError
from dinokit.core.pixels import Pixels
from dinokit.models.features import Features
from dinokit.models.pixels import RawPixels


def test_views_are_crop_major() -> None:
    images = torch.arange(6.0)[:, None]  # crop 0 of images 0, 1, 2, then crop 1 of them
    features = Features(images, images[:, None], images[:, None].expand(6, 4, 1), (2, 2)).unflatten(2)
    assert features.cls[1, 0].item() == 3
    assert features.patches.shape == (2, 3, 4, 1)
    assert torch.equal(features.flatten().cls, images)
    assert features.flatten().grid == (2, 2)


def test_maps_are_row_major() -> None:
    patches = torch.arange(6.0)[None, :, None]
    features = Features(torch.zeros(1, 1), torch.zeros(1, 0, 1), patches, (2, 3))
    assert features.maps.tolist() == [[[[0, 1, 2], [3, 4, 5]]]]


def test_the_cells_of_a_map_are_patches_and_their_mean_is_cls() -> None:
    maps = torch.arange(12.0).reshape(1, 2, 2, 3)  # two channels, two rows, three columns
    features = Features.from_maps(maps)
    assert torch.equal(features.maps, maps)
    assert features.patches[0, 4].tolist() == [4, 10]  # second row, second column
    assert features.cls.tolist() == [[2.5, 8.5]]
    assert features.registers.shape == (1, 0, 2)


def test_raw_pixels_are_the_values_themselves() -> None:
    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    backbone = RawPixels(size=4, patch_size=2)
    features = backbone(images)
    assert torch.equal(features.cls, images.flatten(1))
    assert features.cls.shape[1] == backbone.dim
    assert torch.equal(features.patches[1, 2], images[1, :, 2:4, 0:2].flatten())  # second row, first column
    assert backbone.pixels == Pixels((0.0,) * 3, (1.0,) * 3, 4)
    assert torch.equal(backbone.intermediate(images, 1)[0].patches, features.patches)


def test_what_raw_pixels_cannot_do_is_an_error() -> None:
    backbone, images = RawPixels(size=4), torch.zeros(1, 3, 4, 4)
    with pytest.raises(UserError, match="shape"):
        backbone(torch.zeros(1, 3, 4, 5))
    with pytest.raises(UserError, match="masked"):
        backbone(images, masks=torch.zeros(1, 16, dtype=torch.bool))
    with pytest.raises(UserError, match="single layer"):
        backbone.intermediate(images, 2)
    with pytest.raises(UserError, match="multiple"):
        RawPixels(size=5, patch_size=2)


def test_pixels_need_matching_statistics() -> None:
    with pytest.raises(UserError, match="as many means as stds"):
        Pixels((0.5,), (0.5, 0.5))
    with pytest.raises(UserError, match="positive"):
        Pixels((0.5,), (0.0,))
    with pytest.raises(UserError, match="size"):
        Pixels(size=0)
