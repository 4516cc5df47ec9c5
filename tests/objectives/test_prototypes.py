"""Cross-entropy over slices of prototypes against the textbook form."""

import pytest
import torch
from torch import Tensor

from dinokit.core import device
from dinokit.objectives.prototypes import cross_entropy


def drawn(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def textbook(vectors: Tensor, weight: Tensor, targets: Tensor, *, temperature: float) -> Tensor:
    return -(targets * (vectors @ weight.T / temperature).log_softmax(dim=1)).sum(dim=1)


@pytest.mark.parametrize("held", [1, 7, 60, 10**6])
def test_losses_and_gradients_are_those_of_the_textbook_however_it_is_sliced(
    held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(device.SLICE, "cpu", held)
    targets = drawn(5, 23, seed=2).exp()  # rows of any mass
    gradient = drawn(5, seed=3)  # every sample weighs something else
    found = []
    for function in (cross_entropy, textbook):
        vectors, weight = drawn(5, 4, seed=0).requires_grad_(), drawn(23, 4, seed=1).requires_grad_()
        losses = function(vectors, weight, targets, temperature=0.3)
        losses.backward(gradient)
        found.append((losses.detach(), vectors.grad, weight.grad))
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-12)


def test_samples_that_share_a_row_of_targets() -> None:
    vectors, weight, targets = drawn(6, 4, seed=0), drawn(23, 4, seed=1), drawn(3, 23, seed=2).exp()
    rows = torch.tensor([2, 0, 2, 2, 1, 0])
    shared = cross_entropy(vectors, weight, targets, temperature=0.3, rows=rows)
    torch.testing.assert_close(shared, textbook(vectors, weight, targets[rows], temperature=0.3))


def test_logits_far_beyond_the_range_of_exp_stay_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(device.SLICE, "cpu", 40)
    vectors, weight = 50 * drawn(8, 4, seed=0, dtype=torch.float32), 50 * drawn(23, 4, seed=1, dtype=torch.float32)
    targets = drawn(8, 23, seed=2, dtype=torch.float32).softmax(dim=1)
    vectors.requires_grad_()
    losses = cross_entropy(vectors, weight, targets, temperature=0.04)
    torch.testing.assert_close(losses, textbook(vectors, weight, targets, temperature=0.04))
    losses.sum().backward()
    assert vectors.grad is not None
    assert vectors.grad.isfinite().all()


def test_without_a_sample_the_prototypes_still_have_a_gradient_of_zero() -> None:
    weight = drawn(23, 4, seed=1).requires_grad_()
    cross_entropy(drawn(0, 4, seed=0), weight, drawn(0, 23, seed=2), temperature=0.1).sum().backward()
    assert weight.grad is not None
    assert not weight.grad.any()


def test_under_autocast_only_the_products_are_rounded() -> None:
    vectors = torch.nn.functional.normalize(drawn(64, 32, seed=0, dtype=torch.float32)).requires_grad_()
    weight = (drawn(256, 32, seed=1, dtype=torch.float32) / 6).requires_grad_()
    targets = drawn(64, 256, seed=2, dtype=torch.float32).softmax(dim=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = cross_entropy(vectors, weight, targets, temperature=0.1)
    assert losses.dtype == torch.float32
    exact = textbook(vectors, weight, targets, temperature=0.1)
    torch.testing.assert_close(losses, exact, rtol=5e-3, atol=0)
    rounded = torch.autograd.grad(losses.sum(), (vectors, weight))
    wanted = torch.autograd.grad(exact.sum(), (vectors, weight))
    for mine, other in zip(rounded, wanted, strict=True):
        assert mine.dtype == torch.float32
        assert ((mine - other).norm() / other.norm()).item() < 0.02


def test_no_matrix_of_samples_and_prototypes_is_made() -> None:
    vectors, weight = drawn(64, 8, seed=0).requires_grad_(), drawn(1 << 17, 8, seed=1).requires_grad_()
    targets = torch.full((1, 1 << 17), 2.0**-17, dtype=torch.float64)
    rows = torch.zeros(64, dtype=torch.long)
    with torch.profiler.profile(profile_memory=True) as profile:
        cross_entropy(vectors, weight, targets, temperature=0.1, rows=rows).sum().backward()
    largest = max(event.self_cpu_memory_usage for event in profile.events())
    assert largest <= weight.numel() * 8  # the gradient of the prototypes; the matrix would be 8 times as large
