"""Vital signs: closed forms, what a naive loop gives, and what features that are made up must score."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dinokit.health import vitals
from dinokit.health.probe import CONTRAST, LIGHT, Look, mirrored
from dinokit.health.vitals import places
from dinokit.models.features import Features


def seen(cls: Tensor, *, student: Tensor | None = None, labels: Tensor | None = None) -> vitals.Seen:
    def made(vectors: Tensor) -> Look:
        patches = torch.eye(4)[None].expand(len(vectors), -1, -1)
        features = Features(vectors, vectors[:, None, :][:, :0], patches, (2, 2))
        return Look(features, vectors.norm(dim=1), torch.tensor([[1.0, 1, 1, 10]]).expand(len(vectors), -1))

    return vitals.Seen(made(cls if student is None else student), made(cls), labels)


def test_the_effective_rank_is_the_number_of_equal_directions() -> None:
    assert vitals.effective_rank(7 * torch.eye(5)) == pytest.approx(5)
    assert vitals.effective_rank(torch.ones(9, 4)) == pytest.approx(1, abs=1e-6)
    shares = torch.tensor([0.75, 0.25])  # of singular values, not of their squares
    entropy = -float((shares * shares.log()).sum())
    assert vitals.effective_rank(torch.diag(shares)) == pytest.approx(math.exp(entropy))


def test_ranks_are_relative_to_the_largest_possible() -> None:
    found = vitals.ranks(seen(torch.eye(6)[:3]))
    assert found["rank_cls_share"] == pytest.approx(1)  # of three images
    assert found["rank_patches"] == pytest.approx(4)
    assert found["rank_patches_share"] == pytest.approx(1)  # of four dimensions


def test_equal_images_touch_and_opposite_ones_do_not() -> None:
    assert vitals.spread(seen(torch.ones(5, 3)))["nearest"] == 0
    assert vitals.spread(seen(torch.eye(5) * torch.arange(1.0, 6)[:, None]))["nearest"] == pytest.approx(math.sqrt(2))


def test_agreement_is_of_the_same_image() -> None:
    assert vitals.agreement(seen(torch.eye(4), student=3 * torch.eye(4)))["agreement"] == pytest.approx(1)
    assert vitals.agreement(seen(torch.eye(4), student=torch.eye(4).roll(1, 0)))["agreement"] == pytest.approx(0)


def test_a_patch_that_sticks_out_is_counted() -> None:
    found = vitals.lengths(seen(torch.eye(3)))
    assert found["patch_outliers"] == pytest.approx(1 / 4)
    assert (found["patch_norm"], found["patch_norm_max"]) == (pytest.approx(13 / 4), 10)


def test_neighbours_vote_without_the_image_itself() -> None:
    angles = torch.tensor([0.0, 0.1, 0.2, 2.0, 2.1, 2.2])
    cls = torch.stack([angles.cos(), angles.sin()], dim=1)
    assert vitals.knn(seen(cls, labels=torch.tensor([0, 0, 0, 1, 1, 1])))["knn"] == 100
    assert vitals.knn(seen(cls[:2], labels=torch.tensor([0, 1])))["knn"] == 0  # each finds only the other
    assert vitals.knn(seen(cls)) == {}


def test_opinions_of_the_three_extremes() -> None:
    sure = torch.eye(8)[:4]  # each sample its own prototype
    found = vitals.opinions(sure, sure, sure)
    assert found["target_entropy"] == 0
    assert found["used"] == found["agreement"] == 1
    assert found["information"] == pytest.approx(1)  # all that four samples can show
    assert found["marginal_entropy"] == pytest.approx(math.log(4))

    uniform = torch.full((4, 8), 1 / 8)
    found = vitals.opinions(uniform, uniform, uniform)
    assert found["target_entropy_share"] == pytest.approx(1)
    assert found["information"] == pytest.approx(0, abs=1e-6)

    one = torch.eye(8)[:1].repeat(4, 1)
    found = vitals.opinions(uniform, one, one)
    assert (found["top"], found["used"]) == (1, 1 / 4)
    assert found["information"] == pytest.approx(0)
    assert found["student_entropy_share"] == pytest.approx(1)


def test_change_is_relative() -> None:
    before = torch.ones(3, 4)
    assert vitals.change(before, before) == 0
    assert vitals.change(1.5 * before, before) == pytest.approx(0.5)


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
