"""Bins, the linear depth heads and DPT: ranges, sizes, and that they can learn an image."""

import math

import pytest
import torch
from torch import Tensor, nn

from dinokit.core.errors import UserError
from dinokit.dense.depth import sigloss
from dinokit.dense.depth_heads import DPT, Bins, DPTConfig, LinearConfig, LinearDepth, decode
from dinokit.models.features import Features


def layers(count: int, dim: int = 12, grid: tuple[int, int] = (3, 5)) -> list[Features]:
    draw = torch.Generator().manual_seed(0)
    return [
        Features(
            torch.randn(2, dim, generator=draw),
            torch.zeros(2, 0, dim),
            torch.randn(2, grid[0] * grid[1], dim, generator=draw),
            grid,
        )
        for _ in range(count)
    ]


def test_depth_is_the_expectation_over_the_bins() -> None:
    config = Bins(low=1.0, high=3.0, count=3)
    values = torch.tensor([0.9, -5.0, 0.0]).reshape(1, 3, 1, 1)
    shares = [1.0 / 1.2, 0.1 / 1.2, 0.1 / 1.2]
    assert decode(values, config).item() == pytest.approx(shares[0] * 1 + shares[1] * 2 + shares[2] * 3)
    spread = Bins(low=0.01, high=100.0, count=5, spacing="log")
    ones = 1e9 * torch.eye(5).view(5, 5, 1, 1)  # all in one bin
    assert decode(ones, spread).flatten().tolist() == pytest.approx([0.01, 0.1, 1, 10, 100], rel=1e-4)
    softmax = decode(values, Bins(low=1.0, high=3.0, count=3, link="softmax"))
    exps = [math.exp(0.9), math.exp(-5), 1]
    assert softmax.item() == pytest.approx((exps[0] + 2 * exps[1] + 3 * exps[2]) / sum(exps))


def test_a_single_value_is_a_depth_above_the_nearest() -> None:
    config = Bins(low=0.5, high=3.0, count=1)
    assert decode(torch.tensor([-1.0, 2.0]).reshape(2, 1, 1, 1), config).flatten().tolist() == [0.5, 2.5]


HEADS = {
    "linear": LinearDepth(LinearConfig(width=12)),
    "linear-v2": LinearDepth(LinearConfig(width=12, cls=True, cls_width=12, enlarge=4, batch_norm=False)),
    "linear4": LinearDepth(LinearConfig(width=48, cls=True, cls_width=48, enlarge=4, batch_norm=False)),
    "dpt": DPT(DPTConfig(widths=(12,) * 4, fused=16, bins=Bins(count=16))),
    "dpt-ignore": DPT(DPTConfig(widths=(12,) * 4, fused=16, readout="ignore", bins=Bins(count=16))),
}
CELLS = {"linear": 1, "linear-v2": 4, "linear4": 4, "dpt": 16, "dpt-ignore": 16}


@pytest.mark.parametrize("name", HEADS)
def test_a_head_gives_depths_within_the_range_and_overfits_an_image(name: str) -> None:
    head: nn.Module = HEADS[name]
    seen = layers(4 if name in ("linear4", "dpt", "dpt-ignore") else 1)
    truth = 2 + 3 * torch.rand(2, 3, 5, generator=torch.Generator().manual_seed(1))
    optimiser = torch.optim.AdamW(head.parameters(), lr=1e-2)

    def depth() -> Tensor:
        found: Tensor = head(seen)
        assert found.shape == (2, 1, 3 * CELLS[name], 5 * CELLS[name])
        assert found.min() >= 1e-3
        assert found.max() <= 10
        return nn.functional.adaptive_avg_pool2d(found, (3, 5))[:, 0]

    first = sigloss(depth(), truth).item()
    for _ in range(60):
        optimiser.zero_grad()
        sigloss(depth(), truth).backward()
        optimiser.step()
    assert sigloss(depth(), truth).item() < 0.25 * first


def test_the_cls_reaches_every_patch_where_the_protocol_says_so() -> None:
    for name, changes in (("linear", False), ("linear-v2", True), ("dpt", True), ("dpt-ignore", False)):
        head = HEADS[name].eval()
        seen = layers(4 if "dpt" in name else 1)
        other = [Features(layer.cls + 5, layer.registers, layer.patches, layer.grid) for layer in seen]
        with torch.no_grad():
            assert torch.equal(head(seen), head(other)) != changes, name


@pytest.mark.parametrize("index", range(4))
def test_every_layer_of_a_dpt_tells_and_coarse_grids_of_odd_sides_fit(index: int) -> None:
    head, seen = HEADS["dpt"].eval(), layers(4, grid=(5, 7))
    changed = [*seen]
    layer = seen[index]
    changed[index] = Features(layer.cls, layer.registers, layer.patches + 1, layer.grid)
    with torch.no_grad():
        one, other = head(seen), head(changed)
    assert one.shape == (2, 1, 80, 112)
    assert not torch.equal(one, other)


def test_another_width_is_refused() -> None:
    with pytest.raises(UserError, match="takes 12 numbers per patch, got 8"):
        HEADS["linear"](layers(1, dim=8))
    with pytest.raises(UserError, match="four|4 layers"):
        DPTConfig(widths=(3, 3))
    with pytest.raises(UserError, match="low < high"):
        Bins(low=2.0, high=1.0)
