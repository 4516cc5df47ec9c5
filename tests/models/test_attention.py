"""Attention on a CPU: short rows of tokens take another way than long ones."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dinokit.models import block


def _gradients(how: str, role: Tensor, monkeypatch: pytest.MonkeyPatch) -> tuple[Tensor, ...]:
    monkeypatch.setattr(block, "SHORT", {role.dtype: role.shape[-2]} if how == "short" else {})
    roles = role.clone().requires_grad_()
    mixed = block.attend(*roles)
    mixed.backward(torch.ones_like(mixed).cumsum(-1) / mixed.shape[-1])
    assert roles.grad is not None
    return mixed.detach(), roles.grad


@pytest.mark.parametrize("head_dim", [16, 24])
def test_short_and_long_rows_are_mixed_alike(head_dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    roles = torch.randn(3, 2, 4, 37, head_dim, generator=torch.Generator().manual_seed(0))
    for short, long in zip(*(_gradients(how, roles, monkeypatch) for how in ("short", "long")), strict=True):
        torch.testing.assert_close(short, long, rtol=1e-5, atol=1e-6)


def test_bfloat16_loses_one_more_rounding_than_the_fused_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    roles = torch.randn(3, 2, 4, 200, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    exact = F.scaled_dot_product_attention(*roles.double())
    errors = {how: (_gradients(how, roles, monkeypatch)[0] - exact).square().mean().sqrt() for how in ("short", "long")}
    assert errors["short"] < 2 * errors["long"]  # the weights are rounded too


def test_autocast_keeps_no_wide_matrix_of_short_rows() -> None:
    roles = torch.randn(3, 2, 4, 37, 16).bfloat16().requires_grad_()
    kept: list[torch.dtype] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.dtype)
        return tensor

    with torch.autocast("cpu", dtype=torch.bfloat16), torch.autograd.graph.saved_tensors_hooks(keep, lambda it: it):
        block.attend(*roles)
    assert kept
    assert set(kept) == {torch.bfloat16}
