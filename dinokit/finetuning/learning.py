"""Training a whole network with a head on labels: the head first alone, frozen features under it, then both.

A head that begins at random spoils features before it is right itself; so both begin from a head that was trained on
the frozen network (linear probing, then fine-tuning: arXiv:2202.10054). AdamW with layer-wise decay of the rate
(arXiv:2106.08254), which rises in a line and falls as a cosine to 0; no stochastic depth but the network's own.

Batches, dropout and stochastic depth are functions of (seed, step), so that weights, moments and the step are all there
is to save, and a training that was stopped goes on to the same bits.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dinokit.core import device as devices
from dinokit.core.device import Precision
from dinokit.core.files import check_same, write_state
from dinokit.core.messages import RunError, UserError, info
from dinokit.core.numbers import above, at_least, between, constant, cosine
from dinokit.core.seed import derived
from dinokit.dense.curve import RECENT, Losses, Story
from dinokit.dense.fit import Judged
from dinokit.finetuning.course import Course
from dinokit.models.features import Built
from dinokit.training import optim

STATE = "training.pt"


@dataclass(frozen=True, kw_only=True)
class Config:
    """How a network and its head are trained."""

    iterations: int = at_least(1, 1_000)  # steps
    batch_size: int = at_least(1, 32)  # images per step, of masks and depths crops
    lr: float = above(0, 1e-4)  # peak of the head's learning rate; block i of L takes layer_decay ** (L - i) of it
    layer_decay: float = between(0, 1, 0.75, without=0)  # of the learning rate, per block further from the head
    warmup: int = at_least(0, 100)  # steps in which the rate rises; those beyond half of the steps do not count
    weight_decay: float = at_least(0, 0.05)  # of AdamW, of matrices
    clip: float | None = above(0, 1.0)  # largest norm of the gradient of network and head each; null: none
    precision: Precision = "auto"  # of the matrix products; auto: what is faster here
    save_every: int = at_least(1, 200)  # steps between two states on disk
    seed: int = at_least(0, 0)  # of batches, dropout and stochastic depth

    def optimiser(self) -> optim.Config:
        """Return it in the words of the optimiser."""
        rising = min(self.warmup, self.iterations // 2)
        return optim.Config(
            lr=cosine(self.lr, 0.0, steps=self.iterations, warmup=rising),
            weight_decay=constant(self.weight_decay),
            layer_decay=self.layer_decay,
            clip=self.clip,
        )


def finetune(
    backbone: Built, head: nn.Module, course: Course, config: Config, *, folder: Path, stamp: Mapping[str, Any]
) -> None:
    """Train both in place, and leave them frozen and in evaluation mode.

    Args:
        head: already trained on the frozen network.
        folder: keeps the state, from which the same call goes on.
        stamp: plain values that say what is learnt from what: a state of other data, weights or settings is refused.

    Raises:
        UserError: if the folder holds the state of another training.
        RunError: if a loss is not finite, or the disk is full.
    """
    device, parts = backbone.device, {"backbone": backbone, "head": head.to(backbone.device)}
    settings = {key: value for key, value in asdict(config).items() if key != "save_every"}
    made_of = {**stamp, "settings": settings}
    devices.keep_freed_memory()
    with _learning(parts):
        rates = config.optimiser()
        optimiser = optim.optimizer(parts, rates)
        first, precision, recent = _resumed(folder / STATE, parts, optimiser, stamp=made_of)
        precision = precision or devices.settled(device, config.precision, dim=backbone.dim)
        multiplied = devices.autocast(device, precision)
        with Story([config.lr], steps=config.iterations, start=first, folder=folder).shown() as story:
            for step, (images, targets) in zip(range(first, config.iterations), course.shown(first)):
                optimiser.zero_grad()
                rate = optim.set_rates(optimiser, rates, step=step)["lr"]
                with torch.random.fork_rng([] if device.type == "cpu" else [device], device_type=device.type):
                    torch.manual_seed(derived(config.seed, step))  # of dropout and stochastic depth
                    with multiplied():
                        answer = course.answer(backbone, head, images)
                judged = course.loss(answer.float(), targets, step)
                loss = judged.total if isinstance(judged, Judged) else judged
                if not torch.isfinite(loss):
                    raise RunError(f"step {step:,}: the loss is {loss.item()} at --lr {config.lr:g}; give a lower one")
                loss.backward()  # type: ignore[no-untyped-call]
                optim.clip_gradients(parts, rates)
                optimiser.step()
                recent, done = [*recent, [{"loss": loss.item()}]][-RECENT:], step + 1
                story.add(done, recent, share=rate / config.lr)
                if done == config.iterations or done % config.save_every == 0:
                    kept: dict[str, Any] = {name: part.state_dict() for name, part in parts.items()}
                    kept |= {"optimiser": optim.state_by_name(optimiser, parts), "precision": precision}
                    write_state(folder / STATE, {"stamp": made_of, "step": done, "losses": recent, **kept})


@contextmanager
def _learning(parts: Mapping[str, nn.Module]) -> Iterator[None]:
    """Let networks learn in the body; afterwards they are frozen."""
    for part in parts.values():
        part.train().requires_grad_(True)
    try:
        yield
    finally:
        for part in parts.values():
            part.eval().requires_grad_(False)


def _resumed(
    state: Path, parts: Mapping[str, nn.Module], optimiser: Any, *, stamp: Mapping[str, Any]
) -> tuple[int, Precision | None, list[list[Losses]]]:
    """Take over what was saved; return the steps done, the precision and the last losses."""
    if not state.is_file():
        return 0, None, []
    try:
        saved = torch.load(state, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises almost anything
        raise UserError(f"{state} cannot be read ({type(error).__name__}); delete it to begin anew") from error
    check_same(saved.get("stamp") if isinstance(saved, dict) else None, stamp, place=state)
    for name, part in parts.items():
        part.load_state_dict(saved[name])
    optim.load_state_by_name(optimiser, parts, saved["optimiser"])
    info(f"continuing after step {saved['step']:,}")
    return int(saved["step"]), saved["precision"], saved["losses"]
