"""Train dense heads on frozen features: several at once, resumable to the bit.

The schedules are those of the published linear evaluations. With step t of T, warm-up w and r = 1e-6:

    warm-up    peak (1 - (1 - t / w)(1 - r)) (1 - t / T)          both
    poly       peak (1 - t / T)                                   DINOv2 (arXiv:2304.07193)
    cosine     peak (1 + cos(pi (t + 1) / T)) / 2                 DINOv3 (arXiv:2508.10104, appendix D.1)

and for depth DINOv3's one-cycle: by half cosines from peak / 25 to peak at step w - 1 and on to peak / 25,000, while
beta_1 of AdamW goes from 0.95 to 0.85 and back; beta_2 is 0.99, elsewhere they are 0.9 and 0.999. For its detector
(appendix D.9) "held": a line to the peak, which stays up to 2 T / 3, then half a cosine to a tenth of it.

The batch and the dropout of a step are functions of (seed, step), so that nothing but weights, moments and the step
itself is saved. What a training tells stands in curve.py.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dinokit.core import device as devices
from dinokit.core.files import check_same, digest_of_model, write_state
from dinokit.core.messages import RunError, UserError, duration, info
from dinokit.core.numbers import above, at_least
from dinokit.core.seed import derived
from dinokit.dense.curve import RECENT, Losses, Story, means
from dinokit.dense.maps import Frame, at_pixels, frozen
from dinokit.models.features import Backbone

_START = 1e-6  # of the peak, at the first step of the warm-up
_HELD, _LAST = 2 / 3, 0.1  # of "held": share of the steps before the cosine, share of the peak at its end
_STATE = "training.pt"
_LONG = 600  # seconds of training; above, a quicker way is named


@dataclass(frozen=True)
class Batch:
    """What the heads see at a step, and what they should say."""

    features: Any  # what a head is called with: those of each layer, or a detector's maps
    frame: Frame | None  # where the images lie in them; null: the targets are of patches
    targets: Any  # what the loss is given: [batch, rows, columns], or the objects of each image


Sample = Callable[[int], Batch]  # step -> its batch


@dataclass(frozen=True)
class Judged:
    """A loss, and what it is made of, for people."""

    total: Float[Tensor, ""]
    terms: Mapping[str, Float[Tensor, ""]]  # none of them called loss


# what a head says - values of every pixel or patch -, their targets, step -> loss
Loss = Callable[[Any, Any, int], Float[Tensor, ""] | Judged]


@dataclass(frozen=True, kw_only=True)
class Training:
    """How heads are trained."""

    iterations: int = at_least(1, 40_000)  # steps
    warmup: int = at_least(0, 1_500)  # steps of rising rate; those beyond half of the steps do not count
    schedule: Literal["poly", "cosine", "one-cycle", "held"] = "cosine"  # DINOv2; DINOv3, its depth, its detector
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
            return (1 - (1 - step / warmup) * (1 - _START)) * (1 if self.schedule == "held" else left)
        if self.schedule == "held":
            falling = self.iterations * (1 - _HELD)
            share = max(0.0, 1 - (self.iterations - 1 - step) / max(falling - 1, 1))
            return _LAST + (1 - _LAST) * (1 + math.cos(math.pi * share)) / 2
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
        RunError: if a loss is not finite, or the disk is full.
    """
    with frozen(backbone) as device:
        heads = [member.head.to(device).train() for member in members]
    groups = [{"params": list(member.head.parameters()), "lr": member.lr} for member in members]
    optimiser = torch.optim.AdamW(groups, weight_decay=training.weight_decay)
    state = None if folder is None else folder / _STATE
    made_of = {} if state is None else _made_of(backbone, members, training) | dict(stamp or {})
    first, recent = _resumed(state, heads, optimiser, stamp=made_of)
    for group in optimiser.param_groups:  # a state of before says that it was not
        group["fused"] = devices.has_fused(device) or None
    steps, rates = training.iterations, [member.lr or 0.0 for member in members]
    with Story(rates, steps=steps, start=first, folder=folder).shown() as story:
        for step in range(first, steps):
            began = time.monotonic()
            batch = sample(step)
            recent = [*recent, _stepped(members, optimiser, training, batch, loss, step=step)][-RECENT:]
            done, took = step + 1, time.monotonic() - began
            # elsewhere, and where steps are short, the first ones warm up
            if done - first == (1 if device.type == "cpu" and took > 1 else 3):
                left = took * (steps - done)
                quicker = "; --protocol quick takes minutes" if left > _LONG and batch.frame is not None else ""
                info(f"{steps:,} steps of training, about {duration(left)} to go{quicker}")
            story.add(done, recent, share=training.factor(step))
            if state is not None and (done == steps or done % training.save_every == 0):
                saved = {"stamp": made_of, "step": done, "losses": recent, "optimiser": optimiser.state_dict()}
                write_state(state, saved | {"heads": [head.state_dict() for head in heads]})
    for head in heads:
        head.eval().requires_grad_(False)
    return [each["loss"] for each in means(recent)]


def _made_of(backbone: Backbone, members: Sequence[Member], training: Training) -> dict[str, Any]:
    """Return what a training is of, but for its data."""
    return {
        "weights": digest_of_model(backbone),
        "training": {key: value for key, value in asdict(training).items() if key != "save_every"},
        "rates": [member.lr for member in members],
        "heads": [{key: list(value.shape) for key, value in member.head.state_dict().items()} for member in members],
    }


def _stepped(
    members: Sequence[Member],
    optimiser: torch.optim.Optimizer,
    training: Training,
    batch: Batch,
    loss: Loss,
    *,
    step: int,
) -> list[Losses]:
    """Take one step with every head; return their losses."""
    optimiser.zero_grad(set_to_none=True)
    device, values = next(members[0].head.parameters()).device, []
    for index, (group, member) in enumerate(zip(optimiser.param_groups, members, strict=True)):
        assert member.lr is not None
        group["lr"], group["betas"] = member.lr * training.factor(step), training.betas(step)
        with torch.random.fork_rng([] if device.type == "cpu" else [device], device_type=device.type):
            torch.manual_seed(derived(training.seed, step, index))  # of dropout
            found = member.head(batch.features)
            judged = loss(found if batch.frame is None else at_pixels(found, batch.frame), batch.targets, step)
        told = judged if isinstance(judged, Judged) else Judged(judged, {})
        if not torch.isfinite(told.total):
            raise RunError(f"step {step}: the loss is {told.total.item()} at learning rate {member.lr}; lower it")
        torch.autograd.backward(told.total)  # one by one: the graph of a single head exists at a time
        if training.clip is not None:
            nn.utils.clip_grad_norm_(member.head.parameters(), training.clip)
        every = {"loss": told.total.detach(), **told.terms}
        values.append(dict(zip(every, torch.stack([*every.values()]).tolist(), strict=True)))  # one wait for all
    optimiser.step()
    return values


def _resumed(
    state: Path | None, heads: Sequence[nn.Module], optimiser: torch.optim.Optimizer, *, stamp: Mapping[str, Any]
) -> tuple[int, list[list[Losses]]]:
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
    # states of before knew no terms
    losses: list[list[Losses]] = [
        [each if isinstance(each, dict) else {"loss": each} for each in step] for step in saved["losses"]
    ]
    return int(saved["step"]), losses
