"""Where the weights of a stage come from: its checkpoint, the stage before it, another run, or a model."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from dinokit.checkpoints import checksum
from dinokit.checkpoints.load import is_finite, load, weights_file
from dinokit.checkpoints.store import Clock, RunFolder, run_and_step
from dinokit.config import differences, from_plain, read_yaml
from dinokit.core import dist
from dinokit.core.errors import UserError
from dinokit.core.log import info
from dinokit.models.architecture import Architecture
from dinokit.models.features import Built
from dinokit.run.candidates import choose, kept_at
from dinokit.run.resume import restore
from dinokit.sources.source import Source
from dinokit.training.anchor import AUTO, START
from dinokit.training.config import DRAWN, Leg, TrainConfig
from dinokit.training.stages import Start, carried_over
from dinokit.training.step import Trainer

MASK = "mask_token"  # weights of a network from which nothing was hidden have none


def opened(run: RunFolder, config: TrainConfig, device: torch.device, images: Source) -> tuple[Leg, Trainer, Clock]:
    """Continue from the newest checkpoint, in the stage that it is in; a fresh run begins with its first.

    Args:
        images: that are trained on; an anchor may be chosen by some of them.
    """
    legs = config.experiment.legs()
    steps = run.steps(with_state=True)
    leg = next(leg for leg in legs if not steps or steps[-1] <= leg.last)
    begun = bool(steps) and steps[-1] > leg.first  # then its anchor is in the checkpoint
    for coming in legs[legs.index(leg) + begun :]:
        anchor = coming.experiment.anchor
        if anchor is not None and anchor.is_model:
            weights_file(anchor.source)  # a model that is not there is said now, not when its stage begins
    trainer = built(config, leg, device)
    clock = restore(run, trainer)
    if not steps:
        begin(run, trainer, images)
    following = next_stage(run, config, leg, trainer, images) if clock.step == leg.last else None
    return (leg, trainer, clock) if following is None else (*following, clock)


def next_stage(
    run: RunFolder, config: TrainConfig, leg: Leg, trainer: Trainer, images: Source, *, note: bool = True
) -> tuple[Leg, Trainer] | None:
    """Build the stage after one that is done, with what that learned; None after the last.

    Args:
        note: whether the run's folder receives why an anchor was chosen.
    """
    legs = config.experiment.legs()
    if leg == legs[-1]:
        return None
    leg = legs[legs.index(leg) + 1]
    assert leg.begin is not None
    before, lr_factor = trainer.state(), trainer.lr_factor
    following = built(config, leg, trainer.device)
    following.lr_factor = lr_factor
    following.load_state(carried_over(before, following.state(), begin=leg.begin))
    set_anchor(run, following, images, note=note)
    return leg, following


def built(config: TrainConfig, leg: Leg, device: torch.device) -> Trainer:
    """Build what trains in a stage, with initial weights; if sharded, all ranks must call together."""
    runtime, several = config.runtime, dist.world_size() > 1
    return Trainer(
        leg.experiment,
        device,
        recompute=runtime.recompute,
        compiled=runtime.compile,
        sharded=runtime.sharding == "fsdp" and several,
        teams=runtime.groups and several,
        first=leg.first,
    )


def begin(run: RunFolder, trainer: Trainer, images: Source) -> None:
    """Give a fresh run the weights that it begins with."""
    trainer.begin(images)
    start = trainer.experiment.start
    if start is not None:
        state = weights_of(start, trainer)
        carried = carried_over(state, trainer.state(), begin=start.begin)
        _check_finite(carried, start)
        trainer.load_state(carried)
    set_anchor(run, trainer, images)


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
    folder, step = run_and_step(Path(start.source))
    steps = folder.steps(with_state=True)
    if steps and step in (None, *steps):
        chosen = steps[-1] if step is None else step
        try:
            checksum.verify(folder.checkpoint(chosen))
        except (OSError, ValueError) as error:
            raise UserError(f"{folder.checkpoint(chosen)} is damaged ({error}); begin with another step") from error
        state, _ = folder.load(chosen, trainer.layout)
        _check_network(state, start, trainer)
        return {name: value.to(trainer.device) for name, value in state.items()}
    if start.begin == "continue":
        kept = f"; it keeps those of {', '.join(map(str, steps))}" if steps else ""
        raise UserError(
            f"{start.source} holds no training state to go on with{kept}; give a checkpoint that has one, or let "
            "the stage begin with the teacher alone: --start.begin teacher"
        )
    found, layout = {}, trainer.layout
    for name, value in _model(start.source, trainer).items():
        own = f"backbone.teacher.{name}"
        found[own] = layout(own, value.shape, value.dtype)
        dist.fill(found[own], value)
    return found


def _check_network(state: Mapping[str, Tensor], start: Start, trainer: Trainer) -> None:
    """Refuse the state of another network: what it lacks would stay random."""
    prefix = "backbone.teacher."
    if not any(name.startswith(prefix) for name in state):
        raise UserError(f"{start.source} is a distillation; give the file of one of its students, RUN/NAME.safetensors")
    wanted = {prefix + name: value.shape for name, value in trainer.backbone.teacher.state_dict().items()}
    if wanted != {name: value.shape for name, value in state.items() if name.startswith(prefix)}:
        plain = read_yaml(run_and_step(Path(start.source))[0].config)
        raise _misfit(start.source, from_plain(TrainConfig, plain).experiment.backbone, trainer)


def _misfit(source: str, theirs: Architecture, trainer: Trainer) -> UserError:
    """Say which settings make the network of weights."""
    changes = differences(trainer.experiment.backbone, theirs)
    of_weights = {name: found for name, (_, found) in changes.items() if name not in (*DRAWN, "init")}
    settings = " ".join(f"--backbone.{name} {json.dumps(value)}" for name, value in of_weights.items())
    return UserError(
        f"{source} is another network than the one that is trained; take its own with --backbone auto"
        f"{f', which is {settings}' if settings else ''}"
    )


def set_anchor(run: RunFolder, trainer: Trainer, images: Source, *, note: bool = True) -> None:
    """Give the anchor its weights, as a stage begins."""
    config = trainer.experiment.anchor
    if trainer.anchor is None or config is None:
        return
    if config.source == START:
        trainer.renew_anchor()
        return
    place: str = config.source
    if config.source.isdecimal():
        place = str(kept_at(run, trainer, int(config.source)))
    elif config.source == AUTO:
        place = str(choose(run, trainer, images, note=note))
    own = trainer.anchor.state_dict()
    for name, value in _model(place, trainer).items():
        dist.fill(own[name], value.to(own[name].dtype))


def _model(source: str, trainer: Trainer) -> dict[str, Tensor]:
    """Load a backbone that has the architecture of the one that is trained.

    Raises:
        UserError: if it has another.
    """
    network = load(source)
    wanted, found = trainer.backbone.teacher.state_dict(), network.state_dict()
    if MASK in wanted.keys() - found.keys():
        info(f"{source} has no {MASK}: that is learnt from its initial value")
    elif MASK in found.keys() - wanted.keys():
        del found[MASK]  # nothing is hidden from the network that is trained
    if not isinstance(network, Built):
        raise UserError(f"{source} runs in another library, which trains it; begin with weights that are a file")
    if {name: value.shape for name, value in wanted.items() if name != MASK or name in found} != {
        name: value.shape for name, value in found.items()
    }:
        raise _misfit(source, network.config, trainer)
    return found
