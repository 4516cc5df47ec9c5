"""Train dense heads on frozen patches: several at once, resumable to the bit.

The schedules are those of the published linear evaluations. With step t of T, warm-up w and r = 1e-6:

    warm-up    peak (1 - (1 - t / w)(1 - r)) (1 - t / T)          both
    poly       peak (1 - t / T)                                   DINOv2 (arXiv:2304.07193)
    cosine     peak (1 + cos(pi (t + 1) / T)) / 2                 DINOv3 (arXiv:2508.10104, appendix D.1)

and for depth DINOv3's one-cycle: by half cosines from peak / 25 to peak at step w - 1 and on to peak / 25,000, while
beta_1 of AdamW goes from 0.95 to 0.85 and back; beta_2 is 0.99, elsewhere they are 0.9 and 0.999.

The batch and the dropout of a step are functions of (seed, step), so that nothing but weights, moments and the step
itself is saved.
"""

import io
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dinokit.config import to_plain
from dinokit.core.bounds import above, at_least
from dinokit.core.errors import RunError, UserError
from dinokit.core.files import write_bytes
from dinokit.core.log import duration, info, progress
from dinokit.core.ownership import check_same, digest_of_weights
from dinokit.core.seed import seed_torch
from dinokit.dense.batches import Sample
from dinokit.dense.maps import at_pixels, frozen
from dinokit.models.features import Backbone

_START = 1e-6  # of the peak, at the first step of the warm-up
_STATE = "training.pt"
_LONG = 600  # seconds of training; above, a quicker way is named


# values of every pixel or patch, their targets, step -> loss
Loss = Callable[[Float[Tensor, "batch value rows columns"], Tensor, int], Float[Tensor, ""]]


@dataclass(frozen=True, kw_only=True)
class Training:
    """How heads are trained."""

    iterations: int = at_least(1, 40_000)  # steps
    warmup: int = at_least(0, 1_500)  # steps of rising rate; those beyond half of the steps do not count
    schedule: Literal["poly", "cosine", "one-cycle"] = "cosine"  # DINOv2, DINOv3, DINOv3's depth
    weight_decay: float = at_least(0, 1e-3)  # of AdamW
    clip: float | None = above(0, None)  # largest norm of a head's gradient; null: none
    save_every: int = at_least(1, 1_000)  # steps between two states on disk
    seed: int = at_least(0, 0)  # of batches, dropout and initial weights

    def factor(self, step: int) -> float:
        """Return the learning rate of a step (from 0) as a fraction of its peak."""
        if self.schedule == "one-cycle":
            return self._between(step, 1 / 25, 1.0, 1 / 25_000)
        warmup = min(self.warmup, self.iterations // 2)
        left = 1 - step / self.iterations
        if step < warmup:
            return (1 - (1 - step / warmup) * (1 - _START)) * left
        if self.schedule == "poly":
            return left
        return (1 + math.cos(math.pi * (step + 1) / self.iterations)) / 2

    def betas(self, step: int) -> tuple[float, float]:
        """Return the decay rates of AdamW's two averages at a step."""
        return (self._between(step, 0.95, 0.85, 0.95), 0.99) if self.schedule == "one-cycle" else (0.9, 0.999)

    def _between(self, step: int, first: float, middle: float, last: float) -> float:
        """Go by half cosines from `first` to `middle`, at the end of the warm-up, then to `last`."""
        top, end = max(0, min(self.warmup, self.iterations // 2) - 1), self.iterations - 1
        if step < top:
            return middle + (first - middle) * (1 + math.cos(math.pi * step / top)) / 2
        share = (step - top) / max(1, end - top)
        return last + (middle - last) * (1 + math.cos(math.pi * share)) / 2


@dataclass(frozen=True)
class Member:
    """One head of a sweep and the peak of its learning rate; None: it is not trained here."""

    head: nn.Module
    lr: float | None


def fit(
    backbone: Backbone,
    members: Sequence[Member],
    training: Training,
    *,
    sample: Sample,
    loss: Loss,
    folder: Path | None = None,
    stamp: Mapping[str, Any] | None = None,
) -> list[float]:
    """Train the heads in place; return the mean loss of each over the last steps (up to 100).

    Args:
        sample: a pure function of the step.
        folder: keeps the state, from which the same call continues; None keeps nothing.
        stamp: plain values that say what is sampled: a state of other data, another backbone or settings is refused.

    Raises:
        UserError: if the folder holds the state of another training.
        RunError: if a loss is not finite.
    """
    with frozen(backbone) as device:
        heads = [member.head.to(device).train() for member in members]
    groups = [{"params": list(member.head.parameters()), "lr": member.lr} for member in members]
    optimiser = torch.optim.AdamW(groups, weight_decay=training.weight_decay)
    state = None if folder is None else folder / _STATE
    shapes = [{name: list(value.shape) for name, value in head.state_dict().items()} for head in heads]
    plain = {key: value for key, value in to_plain(training).items() if key != "save_every"}
    made_of = {"weights": digest_of_weights(backbone), "training": plain, "rates": [member.lr for member in members]}
    made_of |= {"heads": shapes, **(stamp or {})}
    first, recent = _resumed(state, heads, optimiser, stamp=made_of)
    began = time.monotonic()
    for step in progress(range(first, training.iterations), training.iterations - first):
        batch = sample(step)
        for group, member in zip(optimiser.param_groups, members):
            assert member.lr is not None
            group["lr"], group["betas"] = member.lr * training.factor(step), training.betas(step)
        optimiser.zero_grad(set_to_none=True)
        values = []
        for index, head in enumerate(heads):
            with torch.random.fork_rng([] if device.type == "cpu" else [device], device_type=device.type):
                seed_torch(training.seed, step, index)  # of dropout
                found = head(batch.features)
                found = found if batch.frame is None else at_pixels(found, batch.frame)
                term = loss(found, batch.targets, step)
            if not torch.isfinite(term):
                raise RunError(f"step {step}: the loss is {term.item()} at learning rate {members[index].lr}; lower it")
            torch.autograd.backward(term)  # one by one: the graph of a single head exists at a time
            if training.clip is not None:
                nn.utils.clip_grad_norm_(head.parameters(), training.clip)
            values.append(term.item())
        optimiser.step()
        recent = [*recent, values][-100:]
        done, last = step + 1, step + 1 == training.iterations
        if done == first + 2:  # the first step warms up
            left = (time.monotonic() - began) / 2 * (training.iterations - done)
            quicker = "; --protocol quick takes minutes" if left > _LONG and batch.frame is not None else ""
            info(f"{training.iterations:,} steps of training, about {duration(left)} to go{quicker}")
        if last or done % max(1, training.iterations // 10) == 0:
            info(f"step {done:,} of {training.iterations:,} · loss {', '.join(f'{x:.4f}' for x in _means(recent))}")
        if state is not None and (last or done % training.save_every == 0):
            saved = {"stamp": made_of, "step": done, "losses": recent, "optimiser": optimiser.state_dict()}
            buffer = io.BytesIO()
            torch.save(saved | {"heads": [head.state_dict() for head in heads]}, buffer)
            write_bytes(state, buffer.getvalue())
    for head in heads:
        head.eval().requires_grad_(False)
    return _means(recent)


def _means(losses: Sequence[Sequence[float]]) -> list[float]:
    return [sum(column) / len(losses) for column in zip(*losses)]


def _resumed(
    state: Path | None, heads: Sequence[nn.Module], optimiser: torch.optim.Optimizer, *, stamp: Mapping[str, Any]
) -> tuple[int, list[list[float]]]:
    if state is None or not state.is_file():
        return 0, []
    try:
        saved = torch.load(state, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises almost anything
        raise UserError(f"{state} cannot be read ({type(error).__name__}); delete it to begin anew") from error
    check_same(saved.get("stamp") if isinstance(saved, dict) else None, stamp, place=state)
    for head, values in zip(heads, saved["heads"], strict=True):
        head.load_state_dict(values)
    optimiser.load_state_dict(saved["optimiser"])
    info(f"continuing after step {saved['step']:,}")
    return int(saved["step"]), saved["losses"]
