"""Resizing of the learned position table."""

import pytest
import torch
import torch.nn.functional as F

from dinokit.models import vit

TABLE = torch.randn(1, 17, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("how", ["offset", "antialias"])
def test_the_native_grid_and_the_cls_slot_stay_as_they_are(how: str) -> None:
    assert vit.resized(TABLE, (4, 4), how=how) is TABLE
    assert torch.equal(vit.resized(TABLE, (2, 7), how=how)[:, 0], TABLE[:, 0])


@pytest.mark.parametrize("how", ["offset", "antialias"])
@pytest.mark.parametrize("grid", [(2, 8), (1, 1), (8, 2), (13, 9), (4, 5)])
def test_any_grid_has_a_vector_per_patch(how: str, grid: tuple[int, int]) -> None:
    assert vit.resized(TABLE, grid, how=how).shape == (1, 1 + grid[0] * grid[1], 6)


def test_a_grid_of_as_many_patches_in_another_shape_is_resized() -> None:
    assert (vit.resized(TABLE, (2, 8), how="offset") - TABLE).abs().max() > 0.1


def test_the_two_ways_are_the_two_official_calls() -> None:
    square = TABLE[:, 1:].reshape(1, 4, 4, 6).permute(0, 3, 1, 2)
    offset = F.interpolate(square, scale_factor=(2.1 / 4, 7.1 / 4), mode="bicubic")
    antialias = F.interpolate(square, size=(2, 7), mode="bicubic", antialias=True)
    for how, expected in (("offset", offset), ("antialias", antialias)):
        rows = expected.permute(0, 2, 3, 1).reshape(1, 14, 6)
        torch.testing.assert_close(vit.resized(TABLE, (2, 7), how=how)[:, 1:], rows)
    assert (offset - antialias).abs().max() > 1e-2


@pytest.mark.parametrize("side", [14, 28, 37])
def test_the_offset_survives_rounding_for_every_grid(side: int) -> None:
    table = torch.zeros(1, 1 + side * side, 1)
    for cells in range(1, 80):
        assert vit.resized(table, (cells, 1), how="offset").shape[1] == 1 + cells
