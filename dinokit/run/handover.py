"""Where the weights of a stage come from: its checkpoint, the stage before it, another run, or a model."""

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from dinokit import recipes
from dinokit.checkpoints.load import is_finite, load
from dinokit.checkpoints.store import Clock, run_and_step
from dinokit.config import differences
from dinokit.core import dist
from dinokit.core.messages import UserError, info
from dinokit.models.features import Built
from dinokit.run.candidates import choose, kept_at
from dinokit.run.setup import Setup, restore
from dinokit.training.config import DRAWN, RunStage
from dinokit.training.course import AUTO, START, Begin, Start
from dinokit.training.step import Trainer

MASK = "mask_token"  # weights of a network from which nothing was hidden have none


def resume_or_begin(setup: Setup) -> tuple[RunStage, Trainer, Clock]:
    """Continue from the newest checkpoint, in the stage that it is in; a fresh run begins with its first."""
    steps = setup.run.steps(with_state=True)
    stage = next(stage for stage in setup.stages if not steps or steps[-1] <= stage.last)
    trainer = setup.build_trainer(stage)
    clock = restore(setup, trainer)
    if not steps:
        trainer.begin(setup.images)
        start = trainer.experiment.start
        if start is not None:
            carried = carried_over(weights_of(start, trainer), trainer.state(), begin=start.begin)
            odd = dist.gather_lists([name for name, value in carried.items() if not is_finite(dist.own_rows(value))])
            if odd:  # every step would be spoilt
                raise UserError(f"{start.source} holds NaN or infinite numbers in {odd[0]}; take an earlier checkpoint")
            trainer.load_state(carried)
        set_anchor(setup, trainer)
    following = next_stage(setup, stage, trainer) if clock.step == stage.last else None
    return (stage, trainer, clock) if following is None else (*following, clock)


def next_stage(
    setup: Setup, stage: RunStage, trainer: Trainer, *, note: bool = True
) -> tuple[RunStage, Trainer] | None:
    """Build the stage after one that is done, with what that learned; None after the last.

    Args:
        note: whether the run's folder receives why an anchor was chosen.
    """
    following = setup.stages.index(stage) + 1
    if following == len(setup.stages):
        return None
    stage = setup.stages[following]
    assert stage.begin is not None
    before, lr_factor = trainer.state(), trainer.lr_factor
    trainer = setup.build_trainer(stage)
    trainer.lr_factor = lr_factor
    trainer.load_state(carried_over(before, trainer.state(), begin=stage.begin))
    set_anchor(setup, trainer, note=note)
    return stage, trainer


def carried_over(before: Mapping[str, Tensor], fresh: Mapping[str, Tensor], *, begin: Begin) -> dict[str, Tensor]:
    """Return the state that a stage begins with.

    Args:
        before: state of the stage before, or of another run.
        fresh: state of a trainer that has not trained; names that `before` does not know keep these values.

    Raises:
        UserError: if a tensor has another shape.
    """
    result = dict(fresh)
    for name, value in fresh.items():
        source = name.replace(".student.", ".teacher.") if begin == "teacher" else name
        if name.startswith("anchor.") or source not in before:
            continue
        if before[source].shape != value.shape:
            raise UserError(
                f"{name} has the shape {list(value.shape)} here and {list(before[source].shape)} in what the stage "
                "begins with; give the backbone and the heads the settings they had"
            )
        result[name] = before[source]
    if begin == "continue":  # moments of what is not trained any more are left lying by who loads them
        result |= {name: value for name, value in before.items() if name.startswith("optimizer.")}
    return result


def weights_of(start: Start, trainer: Trainer) -> Mapping[str, Tensor]:
    """Read the state of another run, or the weights of a model as the state of a teacher.

    Raises:
        UserError: if there is no such thing, or the model is of another architecture.
    """
    folder, step = run_and_step(Path(start.source))
    steps = folder.steps(with_state=True)
    prefix = "backbone.teacher."
    if steps and step in (None, *steps):
        chosen = steps[-1] if step is None else step
        fault = folder.fault(chosen)
        if fault:
            raise UserError(f"{folder.checkpoint(chosen)} is damaged ({fault}); begin with another step")
        state, _ = folder.load(chosen, trainer.layout)
        own = {name.removeprefix(prefix): each.shape for name, each in state.items() if name.startswith(prefix)}
        if not own:
            raise UserError(
                f"{start.source} is a distillation; give the file of one of its students, RUN/NAME.safetensors"
            )
        if own != {name: each.shape for name, each in trainer.backbone.teacher.state_dict().items()}:
            theirs = recipes.find(str(folder.config)).experiment.backbone
            raise _misfit(start.source, theirs, trainer)  # what it lacks would stay random
        return {name: value.to(trainer.device) for name, value in state.items()}
    if start.begin == "continue":
        kept = f"; it keeps those of {', '.join(map(str, steps))}" if steps else ""
        raise UserError(
            f"{start.source} holds no training state to go on with{kept}; give a checkpoint that has one, or let "
            "the stage begin with the teacher alone: --start.begin teacher"
        )
    found, layout = {}, trainer.layout
    for name, value in _model(start.source, trainer).items():
        found[prefix + name] = layout(prefix + name, value.shape, value.dtype)
        dist.fill(found[prefix + name], value)
    return found


def _misfit(source: str, theirs: object, trainer: Trainer) -> UserError:
    """Say which settings make the network of weights."""
    changes = differences(trainer.experiment.backbone, theirs)
    of_weights = {name: found for name, (_, found) in changes.items() if name not in (*DRAWN, "init")}
    settings = " ".join(f"--backbone.{name} {json.dumps(value)}" for name, value in of_weights.items())
    return UserError(
        f"{source} is another network than the one that is trained; take its own with --backbone auto"
        f"{f', which is {settings}' if settings else ''}"
    )


def set_anchor(setup: Setup, trainer: Trainer, *, note: bool = True) -> None:
    """Give the anchor its weights, as a stage begins."""
    config = trainer.experiment.anchor
    if trainer.anchor is None or config is None:
        return
    if config.source == START:
        trainer.renew_anchor()
        return
    place: str = config.source
    if config.source.isdecimal():
        place = str(kept_at(setup, trainer, int(config.source)))
    elif config.source == AUTO:
        place = str(choose(setup, trainer, note=note))
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
