"""Losses of depth maps: the formulas, and which pixels they see."""

import math
import statistics

import pytest
import torch

from dinokit.dense.depth import gradient_loss, sigloss

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
