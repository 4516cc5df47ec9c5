import numpy
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from dinokit.dense.foreground import logistic


@pytest.mark.parametrize("c", [1e-4, 0.1, 100.0])
def test_the_solution_is_that_of_scikit_learn(c: float) -> None:
    generator = numpy.random.default_rng(0)
    samples = generator.normal(size=(80, 5)) * [1, 2, 0.1, 5, 1] + 3
    truth = samples @ generator.normal(size=5) + generator.normal(size=80) > 0
    expected = LogisticRegression(C=c, tol=1e-10, max_iter=10_000).fit(samples, truth)
    weights, intercept = logistic(torch.from_numpy(samples), torch.from_numpy(truth), c=c)
    numpy.testing.assert_allclose(weights.numpy(), expected.coef_[0], atol=1e-3, rtol=1e-3)
    assert float(intercept) == pytest.approx(expected.intercept_[0], abs=5e-3, rel=1e-3)
    again, _ = logistic(torch.from_numpy(samples), torch.from_numpy(truth), c=c, start=(weights + 1, intercept))
    torch.testing.assert_close(again, weights, atol=1e-3, rtol=1e-3)
