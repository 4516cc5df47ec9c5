"""Attention on a CPU: short rows of tokens take another way than long ones."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dinokit.core import device as devices
from dinokit.models import attend
from dinokit.models.block import Attention
from dinokit.models.rope import Rope, RopeConfig, Rotation


def _gradients(how: str, role: Tensor, monkeypatch: pytest.MonkeyPatch) -> tuple[Tensor, ...]:
    monkeypatch.setattr(attend, "SHORT", {role.dtype: role.shape[-2]} if how == "short" else {})
    roles = role.clone().requires_grad_()
    mixed = attend.attend(*roles)
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
        attend.attend(*roles)
    assert kept
    assert set(kept) == {torch.bfloat16}


def _found(of: Callable[[], Tensor], roles: Tensor) -> tuple[Tensor, Tensor]:
    roles.grad = None
    mixed = of()
    mixed.backward((torch.ones_like(mixed, dtype=torch.float32).cumsum(-1) / mixed.shape[-1]).to(mixed.dtype))
    assert roles.grad is not None
    return mixed.detach(), roles.grad.clone()


@pytest.mark.parametrize("turns", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [8, 32])
def test_few_tokens_are_mixed_to_the_bit_as_by_the_definition(
    turns: bool, dtype: torch.dtype, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with its gradient, and where not all images fit into one part."""
    generator = torch.Generator().manual_seed(0)
    roles = torch.randn(5, 11, 3, 3, width, generator=generator).to(dtype).requires_grad_()
    rope = Rope(width, RopeConfig())
    rope.periods.copy_(rope.config.periods(width // 4))
    rotation: Rotation | None = rope((2, 5), prefix=1) if turns else None

    def defined() -> Tensor:
        queries, keys = (roles[:, :, :2] if rotation is None else rotation(roles[:, :, :2])).unbind(2)
        parts = (part.transpose(1, 2) for part in (queries, keys, roles[:, :, 2]))
        return attend.attend(*parts).transpose(1, 2).flatten(2)

    wanted = _found(defined, roles)
    for size in (1 << 20, 4 * roles[0].numel()):
        monkeypatch.setattr(devices, "SLICE", {"cpu": size})
        found = _found(lambda: attend.mixed(roles, rotation), roles)
        assert [torch.equal(*pair) for pair in zip(wanted, found, strict=True)] == [True, True]


def test_maps_are_what_the_mixing_used() -> None:
    attention = Attention(8, 2, bias="none")
    tokens = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    values = attention._project(tokens)[:, :, 2].transpose(1, 2)  # [batch, head, token, head_dim]
    by_maps = (attention.maps(tokens) @ values).transpose(1, 2).flatten(2)
    torch.testing.assert_close(attention(tokens), attention.proj(by_maps))
