"""AdamW moves weights as torch's class does, bit by bit, and does without the compiler."""

import sys

import pytest
import torch
from torch.nn import Parameter

from dinokit.training.adamw import AdamW


def test_it_is_torchs_adamw_bit_by_bit() -> None:
    for fused in (True, False):
        ours, theirs = _parameters(), _parameters()
        groups = [
            {"params": ours[:2], "lr": 0.1, "weight_decay": 0.0},
            {"params": ours[2:], "lr": 0.01, "weight_decay": 0.5},
        ]
        found = AdamW(groups, betas=(0.8, 0.95), eps=1e-8, fused=fused)
        expected = torch.optim.AdamW(
            [
                {"params": theirs[:2], "lr": 0.1, "weight_decay": 0.0},
                {"params": theirs[2:], "lr": 0.01, "weight_decay": 0.5},
            ],
            betas=(0.8, 0.95),
            eps=1e-8,
            fused=fused,
        )
        for step in range(3):
            found.zero_grad()
            for own, other in zip(ours[step:], theirs[step:], strict=True):  # some have no gradient, and stay
                own.grad = torch.randn(own.shape, generator=torch.Generator().manual_seed(step))
                other.grad = own.grad.clone()
            for other in theirs[:step]:
                other.grad = None
            found.step()
            expected.step()
            assert all(torch.equal(own, other) for own, other in zip(ours, theirs, strict=True))
        for own, other in zip(ours, theirs, strict=True):
            assert found.state[own].keys() == expected.state[other].keys()
            assert all(torch.equal(value, expected.state[other][name]) for name, value in found.state[own].items())


def test_a_step_does_without_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch._dynamo", None)  # what Python does with a package that is not there
    for fused in (True, False):
        weight = Parameter(torch.ones(1))
        weight.grad = torch.ones(1)
        groups = [{"params": [weight], "lr": 0.1, "weight_decay": 0.0}]
        AdamW(groups, betas=(0.8, 0.95), eps=1e-8, fused=fused).step()
        assert weight.item() < 1
    with pytest.raises(ImportError):
        torch.optim.AdamW([weight], lr=0.1).step()


def _parameters() -> list[Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [Parameter(torch.randn(*shape, generator=generator)) for shape in ((3, 4), (5,), (2, 3))]
