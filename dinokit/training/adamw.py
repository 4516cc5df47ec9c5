"""AdamW: torch's function without its class, which imports the whole compiler when it is built (2 s, 1,200 modules).

Source: AdamW (arXiv:1711.05101); torch.optim.adamw.adamw, which also torch.optim.AdamW calls.
"""

from collections.abc import Iterable
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim.adamw import adamw

from dinokit.core import dist

STEP, MEAN, SQUARE = "step", "exp_avg", "exp_avg_sq"  # of a parameter's state, as torch.optim names them


@final
class AdamW:
    """Moves parameters along their gradients, in groups that have rates of their own.

    Args:
        groups: each has `params`, and before every step `lr` and `weight_decay`.
        betas: decay of the two moments.
        eps: added to the root of the second moment.
        fused: whether torch has one operation for all of a step on the parameters' device.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], *, betas: tuple[float, float], eps: float, fused: bool
    ) -> None:
        self.param_groups = list(groups)
        self.state: dict[Parameter, dict[str, Tensor]] = {}  # of those that had a gradient once
        self.betas, self.eps, self.fused = betas, eps, fused

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Move every parameter that has a gradient; of a sharded one this rank's rows."""
        for group in self.param_groups:
            moved = [(each, each.grad) for each in group["params"] if each.grad is not None]
            states = [self._state(parameter) for parameter, _ in moved]
            adamw(
                [dist.own_rows(parameter) for parameter, _ in moved],
                [dist.own_rows(gradient) for _, gradient in moved],
                [dist.own_rows(state[MEAN]) for state in states],
                [dist.own_rows(state[SQUARE]) for state in states],
                [],
                [state[STEP] for state in states],
                fused=self.fused,
                amsgrad=False,
                beta1=self.betas[0],
                beta2=self.betas[1],
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                eps=self.eps,
                maximize=False,
            )

    def place(self, parameter: Parameter) -> torch.device:
        """Return where the number of a parameter's steps is wanted."""
        return parameter.device if self.fused else torch.device("cpu")

    def _state(self, parameter: Parameter) -> dict[str, Tensor]:
        """Return a parameter's state, which begins with zeros."""
        if not self.state.get(parameter):
            self.state[parameter] = {
                STEP: torch.zeros((), dtype=torch.float32, device=self.place(parameter)),
                MEAN: torch.zeros_like(parameter),
                SQUARE: torch.zeros_like(parameter),
            }
        return self.state[parameter]
