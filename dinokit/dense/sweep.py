"""Heads that are trained side by side on what a frozen backbone sees: one loop, which a kill does not set back.

Step t of T runs at the peak times (1 + cos(pi t / T)) / 2. The batch of a step is a function of the step, so that
weights, moments and the step are all there is to save.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from dinokit.core import dist
from dinokit.core.files import check_same, write_state
from dinokit.core.messages import UserError, console, duration, info, progress
from dinokit.features.extraction import sharers

BETAS, EPS = (0.9, 0.999), 1e-8  # of AdamW
SAVE_EVERY = 1_000  # steps between two states on disk
SAID = 30.0  # seconds between two lines
_STATE = "training.pt"

# step from which on -> what is seen of the images of each step, and their classes: numbers, or how much of each
Batches = Callable[[int], Iterator[tuple[Float[Tensor, "batch *row"], Shaped[Tensor, "batch *class"]]]]


def falling(step: int, steps: int) -> float:
    """Return the rate of a step (from 0) as a fraction of its peak."""
    return (1 + math.cos(math.pi * step / steps)) / 2


def adamw(
    value: Float[Tensor, "head *shape"],
    slope: Float[Tensor, "head *shape"],
    moments: tuple[Float[Tensor, "head *shape"], Float[Tensor, "head *shape"]],
    *,
    rate: Float[Tensor, " head"],
    decay: Float[Tensor, " head"],
    step: int,
) -> None:
    """Take one step (from 0) of AdamW in place, with a rate and a decay for each head."""
    (first, second), (mean, square) = BETAS, moments
    rate, decay = (each.view(-1, *[1] * (value.ndim - 1)) for each in (rate, decay))
    mean.lerp_(slope, 1 - first)
    square.mul_(second).addcmul_(slope, slope, value=1 - second)
    value.mul_(1 - rate * decay)
    scale = square.sqrt().div_(math.sqrt(1 - second ** (step + 1))).add_(EPS)
    value.addcmul_(mean / scale, -rate / (1 - first ** (step + 1)))


@runtime_checkable
class Sweep(Protocol):
    """Heads that are trained side by side, such as a `Grid`."""

    members: Any  # what each is: dataclasses with the peak of its learning rate, lr
    training: Any  # how all are trained: a dataclass with the steps, iterations
    classes: int

    def step(self, seen: Tensor, targets: Tensor, *, step: int) -> None:
        """Take one step with every head."""

    def losses(self, seen: Tensor, targets: Tensor) -> Float[Tensor, " head"]:
        """Return the loss of every head on some images."""

    def finite(self) -> Bool[Tensor, " head"]:
        """Tell which heads have not diverged."""

    def state(self) -> list[Any]:
        """Return what a training is continued from."""


def train(grid: Sweep, batches: Batches, *, folder: Path | None = None, stamp: Mapping[str, Any] | None = None) -> None:
    """Train all heads in place; all ranks that share the work must call together.

    Args:
        batches: pure functions of the step.
        folder: keeps the state, from which the same call continues; None keeps nothing. Of several ranks the first's.
        stamp: plain values that say what is seen: a state of other data, another backbone or settings is refused.

    Raises:
        UserError: if the folder holds the state of another training, or every head diverges.
    """
    training, state = grid.training, None if folder is None else folder / _STATE
    made_of = {
        **(stamp or {}),
        "training": asdict(training),
        "heads": [asdict(member) for member in grid.members],
        "classes": grid.classes,
    }
    first = _together(_resumed(state, grid, stamp=made_of), grid)
    steps = progress(range(first, training.iterations), training.iterations - first)
    began = said = time.monotonic()
    for step, (seen, targets) in zip(steps, batches(first), strict=False):
        done, now = step + 1, time.monotonic()
        if now - said > SAID and not console.is_terminal:
            losses, said = grid.losses(seen, targets), now
            low = losses.nan_to_num(torch.inf, torch.inf).min().item()
            left = duration((now - began) / (step - first) * (training.iterations - step))
            info(
                f"step {step:,} of {training.iterations:,} · lowest loss of {len(losses)} heads {low:.4f} · {left} left"
            )
        grid.step(seen, targets, step=step)
        if state is not None and (done == training.iterations or done % SAVE_EVERY == 0):
            write_state(state, {"stamp": made_of, "step": done, "grid": grid.state()})
    if not grid.finite().any():
        rates = ", ".join(f"{rate:g}" for rate in sorted({member.lr for member in grid.members}))
        raise UserError(f"all heads have diverged, at the learning rates {rates}; give lower ones as --lr")


def _resumed(state: Path | None, grid: Sweep, *, stamp: Mapping[str, Any]) -> int:
    if state is None or not state.is_file():
        return 0
    try:
        saved = torch.load(state, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises almost anything
        raise UserError(f"{state} cannot be read ({type(error).__name__}); delete it to begin anew") from error
    check_same(saved.get("stamp") if isinstance(saved, dict) else None, stamp, place=state)
    restore(grid, saved["grid"])
    info(f"continuing after step {saved['step']:,}")
    return int(saved["step"])


def _together(first: int, grid: Sweep) -> int:
    """Begin on all ranks that share the work where the first is, which alone keeps a state."""
    ranks, rank = sharers()
    if ranks == 1 or not any(dist.gather_lists([first])):
        return first
    state = [(f"{part}/{place}", each) for part, kept in enumerate(grid.state()) for place, each in enumerate(kept)]
    own = {**dict(state), "first": torch.tensor([first])} if rank == 0 else {}
    there = dist.shared(own, state[0][1].device)
    restore(grid, [[there[f"{part}/{place}"] for place in range(len(kept))] for part, kept in enumerate(grid.state())])
    return int(there["first"])


@torch.no_grad()
def restore(grid: Sweep, state: Sequence[Sequence[Tensor]]) -> None:
    """Take over what `state` gave."""
    for kept, own in zip(state, grid.state(), strict=True):
        for one, other in zip(kept, own, strict=True):
            other.copy_(one)
