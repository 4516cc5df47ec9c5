"""Residual branches with stochastic depth, feed-forward widths, LayerScale."""

import pytest
import torch

from dinokit.models.block import LayerScale, SwiGlu, add_branch
from dinokit.models.init import initialise


@pytest.mark.parametrize(("batch", "drop", "kept"), [(8, 0.25, 6), (5, 0.5, 2), (3, 0.9, 1), (1, 0.5, 1)])
def test_a_branch_runs_on_a_subset_and_keeps_the_expectation(batch: int, drop: float, kept: int) -> None:
    torch.manual_seed(0)
    sizes = []

    def branch(tokens: torch.Tensor) -> torch.Tensor:
        sizes.append(len(tokens))
        return torch.ones_like(tokens)

    gains = add_branch(torch.zeros(batch, 2, 4), branch, drop=drop)[:, 0, 0]
    assert sizes == [kept]
    assert (gains != 0).sum() == kept
    assert gains.sum().item() == pytest.approx(batch)  # so the mean over random subsets is 1 for every sample


def test_every_sample_gets_its_own_update_and_its_turn() -> None:
    torch.manual_seed(0)
    tokens = torch.arange(1.0, 5.0)[:, None, None].expand(4, 1, 2)
    ratios = torch.stack([add_branch(tokens, lambda x: x, drop=0.5) / tokens for _ in range(50)])
    assert set(ratios.unique().tolist()) == {1.0, 3.0}
    # 200 draws of a fair coin per sample pair: 5 standard deviations
    assert ((ratios[:, :, 0, 0] == 3.0).float().mean(0) - 0.5).abs().max() < 0.36


def test_no_drop_is_the_plain_residual() -> None:
    tokens = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0))
    state = torch.get_rng_state()
    torch.testing.assert_close(add_branch(tokens, torch.sin, drop=0.0), tokens + tokens.sin(), atol=0, rtol=0)
    assert torch.equal(state, torch.get_rng_state())


def test_gradient_flows_through_kept_samples_only() -> None:
    torch.manual_seed(0)
    weight = torch.ones(4, requires_grad=True)
    add_branch(torch.ones(4, 1, 4), lambda x: x * weight, drop=0.5).sum().backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [4.0] * 4  # 2 kept samples times a scale of 2


def test_layer_scale_starts_at_its_value() -> None:
    scale = LayerScale(4, 0.25)
    initialise(scale, "dinov3", seed=0)
    assert scale(torch.ones(2, 4)).tolist() == [[0.25] * 4] * 2


def test_swiglu_gates_with_the_first_matrix() -> None:
    network = SwiGlu(3, 2)
    initialise(network, "dinov3", seed=0)
    tokens = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    gate, value = tokens @ network.w1.weight.T, tokens @ network.w2.weight.T
    torch.testing.assert_close(network(tokens), (gate * gate.sigmoid() * value) @ network.w3.weight.T)
