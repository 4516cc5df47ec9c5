"""Whose weights a run begins with, or holds on to: those of another run's checkpoint, or of a model."""

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from dinokit.checkpoints.load import load
from dinokit.checkpoints.store import MODEL, RunFolder, licence_of, run_and_step
from dinokit.config import differences
from dinokit.core import dist
from dinokit.core.messages import UserError, info
from dinokit.models.features import Built
from dinokit.training.config import DRAWN, read
from dinokit.training.course import Start
from dinokit.training.step import Trainer
from dinokit.training.trained import MASK


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
        if (
            start.begin == "teacher"
            and read(folder.config).experiment.backbone.channels != trainer.backbone.teacher.channels
        ):
            return _of_model(str(folder.checkpoint(chosen)), trainer)  # as other kernels; heads begin anew
        if own != {name: each.shape for name, each in trainer.backbone.teacher.state_dict().items()}:
            theirs = read(folder.config).experiment.backbone
            raise _misfit(start.source, theirs, trainer)  # what it lacks would stay random
        trainer.backbone.teacher.licence = licence_at(folder, chosen)
        return {name: value.to(trainer.device) for name, value in state.items()}
    if start.begin == "continue":
        kept = f"; it keeps those of {', '.join(map(str, steps))}" if steps else ""
        raise UserError(
            f"{start.source} holds no training state to go on with{kept}; give a checkpoint that has one, or let "
            "the stage begin with the teacher alone: --start.begin teacher"
        )
    return _of_model(start.source, trainer)


def _of_model(source: str, trainer: Trainer) -> dict[str, Tensor]:
    """Read the weights of a model as the state of a teacher."""
    found, layout, prefix = {}, trainer.layout, "backbone.teacher."
    weights, trainer.backbone.teacher.licence = model_of(source, trainer)
    for name, value in weights.items():
        found[prefix + name] = layout(prefix + name, value.shape, value.dtype)
        dist.fill(found[prefix + name], value)
    return found


def licence_at(run: RunFolder, step: int) -> str | None:
    """Return the licence of the weights that a run began with, which its checkpoints carry."""
    file = run.checkpoint(step) / MODEL
    return licence_of(file) if file.is_file() else None  # of a distillation there may be none of that name


def model_of(source: str, trainer: Trainer) -> tuple[dict[str, Tensor], str | None]:
    """Load a backbone that has the architecture of the one that is trained; return its weights and their licence.

    Raises:
        UserError: if it has another.
    """
    network, channels = load(source), trainer.backbone.teacher.channels
    if isinstance(network, Built) and channels != network.channels:
        info(f"{source}: its kernels for {network.channels} channels are brought to {channels}")
        network = load(source, channels=channels)
    wanted, found = trainer.backbone.teacher.state_dict(), network.state_dict()
    if MASK in wanted.keys() - found.keys():
        info(f"{source} has no {MASK}: it begins at 0, and learns where all of the backbone does or +mask says so")
    elif MASK in found.keys() - wanted.keys():
        del found[MASK]  # nothing is hidden from the network that is trained
    if not isinstance(network, Built):
        raise UserError(f"{source} runs in another library, which trains it; begin with weights that are a file")
    if {name: value.shape for name, value in wanted.items() if name != MASK or name in found} != {
        name: value.shape for name, value in found.items()
    }:
        raise _misfit(source, network.config, trainer)
    return found, network.licence


def _misfit(source: str, theirs: object, trainer: Trainer) -> UserError:
    """Say which settings make the network of weights."""
    changes = differences(trainer.experiment.backbone, theirs)
    of_weights = {name: found for name, (_, found) in changes.items() if name not in (*DRAWN, "init")}
    settings = " ".join(f"--backbone.{name} {json.dumps(value)}" for name, value in of_weights.items())
    return UserError(
        f"{source} is another network than the one that is trained; take its own with --backbone auto"
        f"{f', which is {settings}' if settings else ''}"
    )
