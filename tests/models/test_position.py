"""Resizing of the learned position table."""

import pytest
import torch
import torch.nn.functional as F

from dinokit.models import position

TABLE = torch.randn(1, 17, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("how", ["offset", "antialias"])
def test_the_native_grid_and_the_cls_slot_stay_as_they_are(how: str) -> None:
    assert position.resized(TABLE, (4, 4), how=how) is TABLE
    assert torch.equal(position.resized(TABLE, (2, 7), how=how)[:, 0], TABLE[:, 0])


@pytest.mark.parametrize("how", ["offset", "antialias"])
@pytest.mark.parametrize("grid", [(2, 8), (1, 1), (8, 2), (13, 9), (4, 5)])
def test_any_grid_has_a_vector_per_patch(how: str, grid: tuple[int, int]) -> None:
    assert position.resized(TABLE, grid, how=how).shape == (1, 1 + grid[0] * grid[1], 6)


def test_a_grid_of_as_many_patches_in_another_shape_is_resized() -> None:
    assert (position.resized(TABLE, (2, 8), how="offset") - TABLE).abs().max() > 0.1


def test_the_two_ways_are_the_two_official_calls() -> None:
    square = TABLE[:, 1:].reshape(1, 4, 4, 6).permute(0, 3, 1, 2)
    offset = F.interpolate(square, scale_factor=(2.1 / 4, 7.1 / 4), mode="bicubic")
    antialias = F.interpolate(square, size=(2, 7), mode="bicubic", antialias=True)
    for how, expected in (("offset", offset), ("antialias", antialias)):
        rows = expected.permute(0, 2, 3, 1).reshape(1, 14, 6)
        torch.testing.assert_close(position.resized(TABLE, (2, 7), how=how)[:, 1:], rows)
    assert (offset - antialias).abs().max() > 1e-2


@pytest.mark.parametrize("side", [14, 28, 37])
def test_the_offset_survives_rounding_for_every_grid(side: int) -> None:
    table = torch.zeros(1, 1 + side * side, 1)
    for cells in range(1, 80):
        assert position.resized(table, (cells, 1), how="offset").shape[1] == 1 + cells


@pytest.mark.parametrize("grid", [(2, 7), (6, 5), (4, 4)])
@pytest.mark.parametrize("how", ["offset", "antialias"])
def test_products_resize_as_the_calls_do_and_so_do_their_gradients(how: str, grid: tuple[int, int]) -> None:
    results = []
    for products in (False, True):
        cells = TABLE[:, 1:].reshape(1, 4, 4, 6).permute(0, 3, 1, 2).clone().requires_grad_()
        if products:
            found = position.by_products(cells, grid, how=how)
        elif how == "offset":  # at its own size the table is left alone
            scale = (1, 1) if grid == (4, 4) else [(side + 0.1) / 4 for side in grid]
            found = F.interpolate(cells, scale_factor=scale, mode="bicubic")
        else:
            found = F.interpolate(cells, size=grid, mode="bicubic", antialias=True)
        found.square().sum().backward()
        results.append((found.detach(), cells.grad))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("how", ["offset", "antialias"])
def test_products_are_float32_in_a_region_that_rounds_them(how: str) -> None:
    """As on a GPU, where the student's table is resized by products and the teacher's by F.interpolate."""
    cells = TABLE[:, 1:].reshape(1, 4, 4, 6).permute(0, 3, 1, 2)
    exact = position.by_products(cells, (6, 5), how=how)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = position.by_products(cells, (6, 5), how=how)
    torch.testing.assert_close(found, exact, rtol=0, atol=0)
