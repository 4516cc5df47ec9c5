"""Signs of dense health: what features that are made up must score."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dinokit.health.places import CONTRAST, LIGHT, mirrored, places
from dinokit.health.probe import Look
from dinokit.models.features import Features

ROWS, COLUMNS = 4, 6


def look(patches: Tensor, cls: Tensor | None = None) -> Look:
    """Make a look at maps [image, row, column, dim]."""
    images, rows, columns, dim = patches.shape
    first = torch.randn(images, dim) if cls is None else cls
    features = Features(first, first[:, None][:, :0], patches.flatten(1, 2), (rows, columns))
    return Look(features, first.norm(dim=1), patches.flatten(1, 2).norm(dim=2))


def smooth(images: int, seed: int = 0) -> Tensor:
    """Draw maps whose neighbours are alike and whose ends are not."""
    coarse = torch.randn(images, 16, 2, 3, generator=torch.Generator().manual_seed(seed))
    maps = functional.interpolate(coarse, (ROWS, COLUMNS), mode="bilinear", align_corners=True)
    return maps.permute(0, 2, 3, 1)


def test_content_that_is_the_same_in_the_mirror_scores_full_marks() -> None:
    maps = smooth(5)
    found = places(look(maps), look(maps.flip(2)))
    assert found["same_place"] == pytest.approx(1, abs=1e-6)
    assert found["locality"] > 0.3


def test_features_of_the_position_do_not_agree_with_the_mirror() -> None:
    position = smooth(1).expand(5, -1, -1, -1)  # the same at every image, mirrored or not
    assert places(look(position), look(position))["same_place"] < 0.3


def test_similarity_that_does_not_fall_with_distance_is_not_local() -> None:
    noise = torch.randn(40, ROWS, COLUMNS, 16, generator=torch.Generator().manual_seed(1))
    found = places(look(noise), look(noise.flip(2)))
    assert found["locality"] == pytest.approx(0, abs=0.03)
    assert found["same_place"] == pytest.approx(1, abs=1e-6)


def test_patches_that_are_all_the_cls_token_say_nothing() -> None:
    cls = torch.randn(5, 16, generator=torch.Generator().manual_seed(2))
    maps = cls[:, None, None].expand(-1, ROWS, COLUMNS, -1) * torch.rand(5, ROWS, COLUMNS, 1)
    found = places(look(maps, cls), look(maps.flip(2), cls))
    assert found["cls_patch"] == pytest.approx(1, abs=1e-5)
    assert found["locality"] < 1e-3


def test_a_map_without_distances_is_not_judged() -> None:
    assert places(look(torch.randn(3, 2, 2, 8)), look(torch.randn(3, 2, 2, 8))) == {}


def test_the_mirror_is_paler() -> None:
    images = torch.randn(3, 2, 4, 4)
    (seen,) = mirrored([images])
    assert torch.equal(seen[:, :, :, 0], CONTRAST * images[:, :, :, -1] + LIGHT)
