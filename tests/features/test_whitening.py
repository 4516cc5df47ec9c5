"""Whitening: the covariance of what it has learnt of becomes even, whatever is shared is taken off."""

import pytest
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from dinokit.core.messages import UserError
from dinokit.features import whitening
from dinokit.features.embedding import unit
from dinokit.features.whitening import Whitening


def descriptors(count: int = 200, dim: int = 6) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    stretched = torch.randn(count, dim, generator=draw) * torch.arange(1, dim + 1)
    return stretched @ torch.randn(dim, dim, generator=draw) + 3  # all share a direction


def test_cosines_are_those_of_scikit_learn() -> None:
    vectors = descriptors()
    theirs = torch.from_numpy(PCA(4, whiten=True, svd_solver="full").fit_transform(unit(vectors).numpy()))
    ours = Whitening.learnt(vectors, dims=4, centred=True)(vectors)
    assert ours.shape == (200, 4)
    torch.testing.assert_close(ours.double() @ ours.double().T, unit(theirs) @ unit(theirs).T, rtol=0, atol=1e-5)


def test_about_zero_the_second_moments_are_even() -> None:
    vectors = unit(descriptors())
    learnt = Whitening.learnt(vectors, dims=None, centred=False)
    white = vectors @ learnt.axes
    torch.testing.assert_close(white.T @ white / len(white), torch.eye(6, dtype=torch.float64), rtol=0, atol=1e-9)
    assert not learnt.middle.any()


def test_blocks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = descriptors()
    whole = Whitening.learnt(vectors, dims=3, centred=True)(vectors)
    monkeypatch.setattr(whitening, "BLOCK", 70)
    parts = Whitening.learnt(vectors, dims=3, centred=True)(vectors)
    torch.testing.assert_close(whole @ whole.T, parts @ parts.T, rtol=0, atol=1e-5)


def test_axes_without_variance_are_left_out() -> None:
    few = descriptors(count=4, dim=6)
    assert Whitening.learnt(few, dims=None, centred=True)(few).shape == (4, 3)
    alike = torch.ones(5, 6)
    assert torch.isfinite(Whitening.learnt(alike, dims=2, centred=True)(alike)).all()


def test_more_numbers_than_there_are_is_the_users_error() -> None:
    with pytest.raises(UserError, match="no more than the 6 numbers"):
        Whitening.learnt(descriptors(), dims=7, centred=True)
