"""Binary logistic regression with an L2 penalty on the weights, by L-BFGS: exact and without a learning rate.

Minimises ||w||^2 / 2 + C sum_i log(1 + exp(-y_i (w x_i + b))), y in {-1, 1}; the intercept b is not penalised.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

Solution = tuple[Float[Tensor, " width"], Float[Tensor, ""]]


def logistic(
    samples: Float[Tensor, "sample width"],
    truth: Bool[Tensor, " sample"],
    *,
    c: float,
    start: Solution | None = None,
    iterations: int = 1000,
) -> Solution:
    """Return (weights, intercept) in float64.

    Args:
        c: the weight of the data against the penalty.
        start: where to begin, such as the solution for another c.
        iterations: at most.
    """
    samples, targets = samples.double(), truth.double()
    begin = samples.new_zeros(samples.shape[1] + 1) if start is None else torch.cat([start[0], start[1][None]])
    parameters = begin.clone().requires_grad_(True)
    optimiser: torch.optim.Optimizer = torch.optim.LBFGS(
        [parameters], max_iter=iterations, tolerance_grad=1e-6, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def loss() -> float:
        optimiser.zero_grad()
        with torch.enable_grad():
            logits = samples @ parameters[:-1] + parameters[-1]
            errors = F.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
            # divided by c where that is large: gradients then stop at the same size for all c
            value = ((parameters[:-1] ** 2).sum() / 2 + c * errors) / max(c, 1.0)
            torch.autograd.backward(value)
        return value.item()

    optimiser.step(loss)
    return parameters.detach()[:-1], parameters.detach()[-1]
