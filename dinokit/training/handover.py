"""Where the weights of a stage come from: its checkpoint, the stage before it, another run, or a model."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from dinokit.checkpoints.load import is_finite, load
from dinokit.checkpoints.store import Clock, RunFolder
from dinokit.core import dist
from dinokit.core.errors import UserError
from dinokit.training.anchor import START
from dinokit.training.config import Leg, TrainConfig
from dinokit.training.resume import restore
from dinokit.training.stages import Start, carried_over
from dinokit.training.step import Trainer


def opened(run: RunFolder, config: TrainConfig, device: torch.device) -> tuple[Leg, Trainer, Clock]:
    """Continue from the newest checkpoint, in the stage that it is in; a fresh run begins with its first."""
    legs = config.experiment.legs()
    steps = run.steps(with_state=True)
    leg = next(leg for leg in legs if not steps or steps[-1] <= leg.last)
    trainer = built(config, leg, device)
    clock = restore(run, trainer)
    if not steps:
        begin(run, trainer)
    following = next_stage(run, config, leg, trainer) if clock.step == leg.last else None
    return (leg, trainer, clock) if following is None else (*following, clock)


def next_stage(run: RunFolder, config: TrainConfig, leg: Leg, trainer: Trainer) -> tuple[Leg, Trainer] | None:
    """Build the stage after one that is done, with what that learned; None after the last."""
    legs = config.experiment.legs()
    if leg == legs[-1]:
        return None
    leg = legs[legs.index(leg) + 1]
    assert leg.begin is not None
    before, lr_factor = trainer.state(), trainer.lr_factor
    following = built(config, leg, trainer.device)
    following.lr_factor = lr_factor
    following.load_state(carried_over(before, following.state(), begin=leg.begin))
    set_anchor(run, following)
    return leg, following


def built(config: TrainConfig, leg: Leg, device: torch.device) -> Trainer:
    """Build what trains in a stage, with initial weights; if sharded, all ranks must call together."""
    runtime = config.runtime
    trainer = Trainer(
        leg.experiment,
        device,
        recompute=runtime.recompute,
        compiled=runtime.compile,
        sharded=runtime.sharding == "fsdp" and dist.world_size() > 1,
        first=leg.first,
    )
    if trainer.sharded:
        trainer.shard()
    return trainer


def begin(run: RunFolder, trainer: Trainer) -> None:
    """Give a fresh run the weights that it begins with."""
    start = trainer.experiment.start
    if start is not None:
        state = weights_of(start, trainer)
        carried = carried_over(state, trainer.state(), begin=start.begin)
        _check_finite(carried, start)
        trainer.load_state(carried)
    set_anchor(run, trainer)


def _check_finite(state: Mapping[str, Tensor], start: Start) -> None:
    """Refuse a state that would spoil every step; if sharded, all ranks must call together."""
    odd = [name for name, value in state.items() if not is_finite(dist.own_rows(value))]
    everyones = dist.gather_lists(odd)
    if everyones:
        raise UserError(f"{start.source} holds NaN or infinite numbers in {everyones[0]}; take an earlier checkpoint")


def weights_of(start: Start, trainer: Trainer) -> Mapping[str, Tensor]:
    """Read the state of another run, or the weights of a model as the state of a teacher.

    Raises:
        UserError: if there is no such thing, or the model is of another architecture.
    """
    path = Path(start.source)
    folder, step = RunFolder(path), None
    if path.parent.name == "checkpoints" and path.name.isdigit():
        folder, step = RunFolder(path.parent.parent), int(path.name)
    steps = folder.steps(with_state=True)
    if steps and step in (None, *steps):
        state, _ = folder.load(steps[-1] if step is None else step, trainer.layout)
        return {name: value.to(trainer.device) for name, value in state.items()}
    if start.begin == "continue":
        kept = f"; it keeps those of {', '.join(map(str, steps))}" if steps else ""
        raise UserError(f"{start.source} holds no training state to continue with{kept}; set begin to teacher")
    found = {}
    for name, value in _model(start.source, trainer).items():
        own = f"backbone.teacher.{name}"
        found[own] = trainer.layout(own, value.shape, value.dtype)
        dist.fill(found[own], value)
    return found


def set_anchor(run: RunFolder, trainer: Trainer) -> None:
    """Give the anchor its weights, as a stage begins."""
    if trainer.anchor is None or trainer.experiment.anchor is None:
        return
    source = trainer.experiment.anchor.source
    if source == START:
        trainer.renew_anchor()
        return
    place = str(run.checkpoint(int(source))) if source.isdigit() else source
    own = trainer.anchor.state_dict()
    for name, value in _model(place, trainer).items():
        dist.fill(own[name], value.to(own[name].dtype))


def _model(source: str, trainer: Trainer) -> dict[str, Tensor]:
    """Load a backbone that has the architecture of the one that is trained.

    Raises:
        UserError: if it has another.
    """
    found = load(source).state_dict()
    wanted = {name: value.shape for name, value in trainer.backbone.teacher.state_dict().items()}
    if {name: value.shape for name, value in found.items()} != wanted:
        odd = next((n for n in wanted if n not in found or found[n].shape != wanted[n]), next(iter(found)))
        raise UserError(f"{source} is another architecture than the one that is trained ('{odd}' differs)")
    return found
