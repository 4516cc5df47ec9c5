"""Masks have exact counts, spread ratios and blocks, and are a function of (seed, step, position)."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dinokit.core.messages import UserError
from dinokit.views import masking

V3, V2 = masking.Config(), masking.Config(style="dinov2")


def _masks(config: masking.Config, batch: int = 16, grid: tuple[int, int] = (14, 14), step: int = 0) -> torch.Tensor:
    return masking.sample_masks(config, views=2, batch=batch, grid=grid, seed=0, step=step, first=0)


def test_exact_counts_of_dinov3() -> None:
    for step in range(5):
        counts = _masks(V3, step=step).sum(dim=2).flatten()
        expected = [int(196 * edge) for edge in np.linspace(0.1, 0.5, 17)[1:]]
        assert sorted(counts[counts > 0].tolist()) == expected


def test_dinov2_stays_within_its_strata() -> None:
    tops = [int(196 * edge) for edge in np.linspace(0.1, 0.5, 17)[1:]]
    for step in range(5):
        counts = _masks(V2, step=step).sum(dim=2).flatten()
        counts = counts[counts > 0].sort().values
        assert len(counts) == 16
        assert all(count <= top for count, top in zip(counts.tolist(), tops))
    mean = torch.stack([_masks(V2, step=step).float().mean() for step in range(50)]).mean()
    assert 0.13 < mean < 0.15  # half of 0.3, minus the blocks that did not fit


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    batch=st.integers(1, 5),
    probability=st.floats(0, 1),
    low=st.floats(0, 1),
    high=st.floats(0, 1),
)
def test_counts_are_exact_for_any_setting(
    rows: int, columns: int, batch: int, probability: float, low: float, high: float
) -> None:
    config = masking.Config(probability=probability, ratio=(min(low, high), max(low, high)))
    counts = _masks(config, batch=batch, grid=(rows, columns)).sum(dim=2).flatten()
    masked = int(2 * batch * probability)
    edges = np.linspace(*config.ratio, masked + 1)[1:]
    targets = [int(rows * columns * edge) for edge in edges]
    assert sorted(counts.tolist()) == sorted([0] * (2 * batch - masked) + targets)


def test_masks_are_blocks() -> None:
    masks = _masks(V2, batch=64).view(-1, 14, 14)
    masks = masks[masks.sum(dim=(1, 2)) > 30]
    alike = (masks[:, 1:] == masks[:, :-1]).float().mean()
    assert alike > 0.8  # independent patches at these ratios would give about 0.55


def test_every_crop_and_patch_gets_its_turn() -> None:
    rate = torch.stack([_masks(V3, batch=4, grid=(6, 6), step=step).float() for step in range(200)]).mean(dim=0)
    assert rate.mean(dim=2).min() > 0.1  # expected 0.17
    assert rate.mean(dim=(0, 1)).min() > 0.05  # corners are hidden less often, as in BEiT


def test_a_function_of_seed_step_and_position() -> None:
    def sample(seed: int, step: int, first: int) -> torch.Tensor:
        return masking.sample_masks(V3, views=2, batch=8, grid=(7, 7), seed=seed, step=step, first=first)

    assert torch.equal(sample(1, 2, 3), sample(1, 2, 3))
    for other in ((0, 2, 3), (1, 0, 3), (1, 2, 0)):
        assert not torch.equal(sample(1, 2, 3), sample(*other))


@pytest.mark.parametrize("wrong", [{"probability": 1.1}, {"ratio": (0.5, 0.1)}])
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        masking.Config(**wrong)  # type: ignore[arg-type]
