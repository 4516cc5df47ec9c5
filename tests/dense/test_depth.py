"""Depth: bins and heads, their sizes and that they learn an image; losses, their formulas and the pixels they see."""

import json
import math
import statistics
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dinokit.core.messages import UserError
from dinokit.dense.depth import DPT, Bins, DPTConfig, LinearConfig, LinearDepth, decode
from dinokit.dense.depth_lesson import gradient_loss, sigloss
from dinokit.dense.heads import About, load_head, save_head
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
    config = Bins(low=1.0, high=3.0)
    values = torch.tensor([0.9, -5.0, 0.0]).reshape(1, 3, 1, 1)
    shares = [1.0 / 1.2, 0.1 / 1.2, 0.1 / 1.2]
    assert decode(values, config).item() == pytest.approx(shares[0] * 1 + shares[1] * 2 + shares[2] * 3)


def test_a_head_with_the_settings_of_old_ones_loads_and_another_choice_is_refused(tmp_path: Path) -> None:
    about = About("depth", "runs/a", "", layers=(0, 1, 2, 3), details={"low": 0.001, "high": 10.0})
    save_head(tmp_path, HEADS["dpt"], about)
    plain = json.loads((tmp_path / "head.json").read_text())
    old = {"count": 256, "spacing": "uniform", "link": "linear"}
    plain["config"] |= {"readout": "project", "levels": None, "bins": plain["config"]["bins"] | old}
    (tmp_path / "head.json").write_text(json.dumps(plain))
    with torch.no_grad():
        assert torch.equal(load_head(tmp_path)[0](layers(4)), HEADS["dpt"].eval()(layers(4)))
    plain["config"]["bins"]["spacing"] = "log"
    (tmp_path / "head.json").write_text(json.dumps(plain))
    with pytest.raises(UserError, match=r"bins\.spacing is retired and was always uniform"):
        load_head(tmp_path)


HEADS = {
    "linear": LinearDepth(LinearConfig(width=12)),
    "linear-v2": LinearDepth(LinearConfig(width=12, cls=True, cls_width=12, enlarge=4, batch_norm=False)),
    "linear4": LinearDepth(LinearConfig(width=48, cls=True, cls_width=48, enlarge=4, batch_norm=False)),
    "dpt": DPT(DPTConfig(widths=(12,) * 4, fused=16)),
}
CELLS = {"linear": 1, "linear-v2": 4, "linear4": 4, "dpt": 16}


@pytest.mark.parametrize("name", HEADS)
def test_a_head_gives_depths_within_the_range_and_overfits_an_image(name: str) -> None:
    head: nn.Module = HEADS[name]
    seen = layers(4 if name in ("linear4", "dpt") else 1)
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
    for name, changes in (("linear", False), ("linear-v2", True), ("dpt", True)):
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


TRUTH = torch.tensor([[[1.0, 2.0, 4.0], [0.0, 5.0, 3.0]]])
FOUND = torch.tensor([[[2.0, 2.5, 3.0], [9.0, 4.0, 3.5]]])


def test_sigloss_is_its_formula() -> None:
    pairs = [(f, t) for f, t in zip(FOUND.flatten().tolist(), TRUTH.flatten().tolist(), strict=True) if t > 0]
    g = [math.log(f + 1e-3) - math.log(t + 1e-3) for f, t in pairs]
    mean = statistics.mean(g)
    wanted = math.sqrt(statistics.variance(g) + 0.15 * mean**2)  # unbiased
    assert sigloss(FOUND, TRUTH).item() == pytest.approx(wanted, rel=1e-5)
    assert sigloss(FOUND, TRUTH, warm=True).item() == pytest.approx(math.sqrt(0.15) * abs(mean), rel=1e-5)


def test_what_has_no_truth_has_no_gradient() -> None:
    found = FOUND.clone().requires_grad_()
    (sigloss(found, TRUTH) + gradient_loss(found, TRUTH)).backward()
    assert found.grad is not None
    assert found.grad[0, 1, 0] == 0
    assert found.grad.isfinite().all()


def test_the_gradient_loss_is_a_loop() -> None:
    draw = torch.Generator().manual_seed(0)
    found, truth = (1 + torch.rand(2, 14, 15, generator=draw) for _ in range(2))
    truth[torch.rand(truth.shape, generator=draw) < 0.2] = 0
    total = 0.0
    for stride in (1, 2, 4, 6):
        f, t = found[:, ::stride, ::stride], truth[:, ::stride, ::stride]
        summed, count = 0.0, int((t > 0).sum())
        for b in range(2):
            for i in range(t.shape[1]):
                for j in range(t.shape[2]):
                    for di, dj in ((2, 0), (0, 2)):
                        if i + di < t.shape[1] and j + dj < t.shape[2] and t[b, i, j] > 0 and t[b, i + di, j + dj] > 0:
                            here = math.log((f[b, i, j] + 1e-3) / (t[b, i, j] + 1e-3))
                            there = math.log((f[b, i + di, j + dj] + 1e-3) / (t[b, i + di, j + dj] + 1e-3))
                            summed += abs(here - there)
        total += summed / count
    assert gradient_loss(found, truth).item() == pytest.approx(total, rel=1e-4)


def test_a_scale_costs_nothing_in_the_gradient_loss() -> None:
    truth = 1 + torch.rand(1, 9, 9, generator=torch.Generator().manual_seed(2))
    assert gradient_loss(1.5 * (truth + 1e-3) - 1e-3, truth).item() == pytest.approx(0, abs=1e-5)
