"""Shares of the ranks, without ranks; with them in test_dist.py."""

import pytest
import torch

from dinokit.core.gradients import PIECE, WHOLE, average


@pytest.mark.parametrize("length", [1, WHOLE, 100, 3 * PIECE + 100])
def test_shares_of_three_ranks_make_up_the_mean(length: int) -> None:
    """Shares are rounded up to lines, so the last are shorter than the first, or empty."""
    regions = list(torch.randn(3, length, generator=torch.Generator().manual_seed(0)))
    mean = (regions[0] + regions[1] + regions[2]) / 3
    for rank in (2, 0, 1):
        average(regions, rank)
    assert all(torch.equal(region, mean) for region in regions)
