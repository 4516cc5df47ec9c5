import warnings

import numpy
import pytest
import torch
from jaxtyping import Float, Int64
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional as F

from dinokit.dense.logistic import OPEN, Solution, each_against_others, solutions

CS = [1e-6, 1e-4, 1e-2, 1.0, 100.0, 1e5]
CLOSE = 1e-6  # of probabilities

Samples = Float[Tensor, "sample width"]
Labels = Int64[Tensor, " sample"]


def drawn(
    classes: int, *, count: int = 120, width: int = 6, noise: float = 1.5, seed: int = 0
) -> tuple[Samples, Labels]:
    """Overlapping clouds, not about 0 and of scales that differ a thousand times."""
    draw = numpy.random.default_rng(seed)
    labels = numpy.concatenate([numpy.arange(classes), draw.integers(0, classes, count - classes)])
    samples = draw.normal(size=(classes, width))[labels] + noise * draw.normal(size=(count, width))
    samples = (samples @ draw.normal(size=(width, width)) + 3) * numpy.logspace(-1.5, 1.5, width)
    return torch.from_numpy(samples.astype(numpy.float32)), torch.from_numpy(labels)


def theirs(samples: Samples, labels: Labels, c: float, solver: str = "newton-cholesky") -> LogisticRegression:
    """Scikit-learn's solution."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it may stop where rounding ends its line search
        fit = LogisticRegression(C=c, tol=1e-12, max_iter=2000, solver=solver)
        return fit.fit(samples.double().numpy(), labels.numpy())


def objective(solution: Solution, samples: Samples, labels: Labels, c: float) -> float:
    """The objective of several classes."""
    errors = F.cross_entropy(solution(samples), labels, reduction="sum")
    return float(errors + solution.weight.square().sum() / (2 * c))


def gradient(solution: Solution, samples: Samples, labels: Labels, c: float) -> float:
    """The largest derivative of the objective by a weight or a bias, by autograd."""
    weight, bias = solution.weight.clone().requires_grad_(), solution.bias.clone().requires_grad_()
    errors = F.cross_entropy(samples.double() @ weight.T + bias, labels, reduction="sum")
    (errors + weight.square().sum() / (2 * c)).backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    assert bias.grad is not None
    return max(float(weight.grad.abs().max()), float(bias.grad.abs().max()))


@pytest.mark.parametrize("classes", [2, 4])
def test_every_solution_is_that_of_scikit_learn(classes: int) -> None:
    samples, labels = drawn(classes)
    for c, found in zip(CS, solutions(samples, labels, CS)):
        expected = theirs(samples, labels, c)
        shares = found(samples).softmax(dim=1).numpy()
        numpy.testing.assert_allclose(shares, expected.predict_proba(samples.double().numpy()), atol=CLOSE)
        if classes > 2:
            # its L-BFGS is up to 0.14 of a probability away from the minimum on such scales, but never below it
            rival = theirs(samples, labels, c, "lbfgs")
            own = Solution(torch.from_numpy(rival.coef_), torch.from_numpy(rival.intercept_))
            assert objective(found, samples, labels, c) <= objective(own, samples, labels, c) * (1 + 1e-9)


def test_the_solution_of_l_bfgs_is_the_same_where_it_comes_to_its_end() -> None:
    samples, labels = drawn(5)
    samples = (samples - samples.mean(dim=0)) / samples.std(dim=0)
    for c, found in zip(CS, solutions(samples, labels, CS)):
        shares = theirs(samples, labels, c, "lbfgs").predict_proba(samples.double().numpy())
        numpy.testing.assert_allclose(found(samples).softmax(dim=1).numpy(), shares, atol=1e-5)


def test_two_classes_share_one_vector_whose_length_is_penalised() -> None:
    samples, labels = drawn(2)
    expected, (found,) = theirs(samples, labels, 0.1), solutions(samples, labels, [0.1])
    numpy.testing.assert_allclose(found.weight.diff(dim=0).numpy(), expected.coef_, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(found.margin(samples), found(samples)[:, 1] - found(samples)[:, 0])


@pytest.mark.parametrize("noise", [0.1, 1.5, 5.0])  # separable, in between, hardly anything to learn
def test_the_gradient_ends_at_zero(noise: float) -> None:
    samples, labels = drawn(4, noise=noise)
    unfitted = Solution(torch.zeros(4, 6, dtype=torch.float64), torch.zeros(4, dtype=torch.float64))
    for c, found in zip(CS, solutions(samples, labels, CS)):
        assert gradient(found, samples, labels, c) < 1e-4 * gradient(unfitted, samples, labels, c)


def test_the_way_to_a_solution_does_not_matter() -> None:
    samples, labels = drawn(5, noise=0.5)
    path = list(solutions(samples, labels, CS))
    for c, found in zip(CS, path):
        (alone,) = solutions(samples, labels, [c])
        torch.testing.assert_close(alone(samples).softmax(dim=1), found(samples).softmax(dim=1), atol=CLOSE, rtol=0)


def test_more_features_than_samples() -> None:
    samples, labels = drawn(3, count=20, width=50)
    for c in (1e-3, 10.0):
        (found,) = solutions(samples, labels, [c])
        shares = theirs(samples, labels, c).predict_proba(samples.double().numpy())
        numpy.testing.assert_allclose(found(samples).softmax(dim=1).numpy(), shares, atol=CLOSE)


def test_constant_and_repeated_features_change_nothing_but_their_share() -> None:
    samples, labels = drawn(3)
    more = torch.cat([samples, torch.full((len(samples), 1), 1e6), samples], dim=1)
    # a feature twice has twice the say: |w|^2 / 2 of two halves
    for once, twice in zip(solutions(samples, labels, [0.2, 2.0]), solutions(more, labels, [0.1, 1.0])):
        torch.testing.assert_close(once(samples), twice(more), atol=1e-4, rtol=1e-4)
        assert twice.weight[:, 6].abs().max() < 1e-9


def test_nothing_but_constants_leaves_the_shares_of_the_classes() -> None:
    labels = torch.tensor([0, 1, 1, 1])
    (found,) = solutions(torch.ones(4, 3), labels, [1.0])
    torch.testing.assert_close(found(torch.zeros(1, 3)).softmax(dim=1), torch.tensor([[0.25, 0.75]]).double())


def test_blocks_of_rows_change_no_solution(monkeypatch: pytest.MonkeyPatch) -> None:
    samples, labels = drawn(3)
    (whole,) = solutions(samples, labels, [1.0])
    monkeypatch.setattr("dinokit.core.device.SLICE", {"cpu": 50})
    (cut,) = solutions(samples, labels, [1.0])
    torch.testing.assert_close(cut.weight, whole.weight, atol=1e-6, rtol=1e-5)


def test_each_class_is_told_from_the_others_by_its_own_regression() -> None:
    samples, labels = drawn(4)
    truth = torch.stack([labels == 0, labels < 2, labels != 3], dim=1).to(torch.int8)
    truth[::7, 1] = OPEN
    for c, found in zip(CS, each_against_others(samples, truth, CS)):
        for number in range(3):
            rows = (truth[:, number] != OPEN).nonzero().flatten()
            expected = theirs(samples[rows], truth[rows, number].long(), c)
            shares = expected.predict_proba(samples.double().numpy())[:, 1]
            numpy.testing.assert_allclose(found(samples)[:, number].sigmoid().numpy(), shares, atol=CLOSE)


def test_classes_side_by_side_are_those_alone_and_that_of_two_classes() -> None:
    samples, labels = drawn(2, width=10)
    other = torch.arange(len(labels)) % 3 == 0
    together = each_against_others(samples, torch.stack([labels, other], dim=1).to(torch.int8), CS)
    alone = each_against_others(samples, other[:, None].to(torch.int8), CS)
    for both, one, two in zip(together, alone, solutions(samples, labels, CS)):
        numpy.testing.assert_allclose(both(samples)[:, 1].sigmoid(), one(samples)[:, 0].sigmoid(), atol=CLOSE)
        numpy.testing.assert_allclose(both(samples)[:, 0].sigmoid(), two.margin(samples).sigmoid(), atol=CLOSE)
