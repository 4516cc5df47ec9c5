"""Where the weights of a stage come from: its checkpoint, the stage before it, another run, or a model; and its anchor.

The anchor that is chosen (`auto`) is, of the teachers that a run has kept, the earliest whose patches are as good as
they get: a locality (vitals.py) within 2 % of the largest. Locality comes up with the quality of patches, then hardly
falls while that goes down, so that its maximum comes late (docs/log.md, "Gram anchoring of a small run"); that early
teachers anchor best is also what DINOv3 found (arXiv:2508.10104, section 4.3).
"""

import json
from bisect import bisect_left
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from dinokit.checkpoints.load import is_finite, load
from dinokit.checkpoints.store import MODEL, Clock, RunFolder, licence_of, run_and_step
from dinokit.config import differences, to_yaml
from dinokit.core import dist
from dinokit.core.files import keep_lines, write_json
from dinokit.core.messages import RunError, UserError, info, is_main, warn
from dinokit.health.vitals import Probe, look, mirrored, places
from dinokit.models.features import Built
from dinokit.run.setup import Setup
from dinokit.training.config import DRAWN, RunStage, read
from dinokit.training.course import AUTO, START, Anchor, Begin, Start
from dinokit.training.step import Trainer

CLOSE = 0.02  # of the largest locality: less tells nothing
MASK = "mask_token"  # weights of a network from which nothing was hidden have none


def resume_or_begin(setup: Setup) -> tuple[RunStage, Trainer, Clock]:
    """Continue from the newest checkpoint, in the stage that it is in; a fresh run begins with its first."""
    steps = setup.run.steps(with_state=True)
    stage = next(stage for stage in setup.stages if not steps or steps[-1] <= stage.last)
    trainer = setup.build_trainer(stage)
    clock = _restore(setup, trainer)
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


def _restore(setup: Setup, trainer: Trainer) -> Clock:
    """Load the newest checkpoint and drop what the logs say of later steps; a fresh run stays as it was built."""
    run = setup.run
    steps = run.steps(with_state=True)
    state, clock = run.load(steps[-1], trainer.layout) if steps else ({}, Clock())
    # before rank 0 writes the first checkpoint, all have looked for one, and have found the same
    found = dist.gather_lists([(clock.step, to_yaml(trainer.experiment))])
    if len(set(found)) > 1:
        raise RunError(
            f"all ranks must see one run, they found steps {sorted({step for step, _ in found})}; "
            "give all the same --out, on a disk that they share, and the same settings"
        )
    if not steps:
        return clock
    trainer.backbone.teacher.licence = _licence_at(run, clock.step)
    trainer.lr_factor = clock.lr_factor
    trainer.load_state({name: value.to(trainer.device) for name, value in state.items()})
    if is_main():
        run.publish(clock.step)  # a kill may have come between the checkpoint and its publication
        for log in (run.metrics, run.bad_images):
            keep_lines(log, lambda line: line.get("step", 0) <= clock.step)
        # bad steps that will be taken again; those before the run went back stay
        keep_lines(run.bad_steps, lambda line: line["step"] <= clock.step or line["rollbacks"] < clock.rollbacks)
    return clock


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
    before, lr_factor, licence = trainer.state(), trainer.lr_factor, trainer.backbone.teacher.licence
    trainer = setup.build_trainer(stage)
    trainer.lr_factor, trainer.backbone.teacher.licence = lr_factor, licence
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
        if begin == "teacher" and "low_rank." in name:  # what those factors made is in the teacher's weights
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
        if (
            start.begin == "teacher"
            and read(folder.config).experiment.backbone.channels != trainer.backbone.teacher.channels
        ):
            return _of_model(str(folder.checkpoint(chosen)), trainer)  # as other kernels; heads begin anew
        if own != {name: each.shape for name, each in trainer.backbone.teacher.state_dict().items()}:
            theirs = read(folder.config).experiment.backbone
            raise _misfit(start.source, theirs, trainer)  # what it lacks would stay random
        trainer.backbone.teacher.licence = _licence_at(folder, chosen)
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
    weights, trainer.backbone.teacher.licence = _model(source, trainer)
    for name, value in weights.items():
        found[prefix + name] = layout(prefix + name, value.shape, value.dtype)
        dist.fill(found[prefix + name], value)
    return found


def _licence_at(run: RunFolder, step: int) -> str | None:
    """Return the licence of the weights that a run began with, which its checkpoints carry."""
    file = run.checkpoint(step) / MODEL
    return licence_of(file) if file.is_file() else None  # of a distillation there may be none of that name


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
    if config.source == AUTO:
        place = str(_choose(setup, trainer, config, note=note))
    elif not config.is_model:
        place = str(_kept_at(setup, trainer, int(config.source)))
    own = trainer.anchor.state_dict()
    for name, value in _model(place, trainer)[0].items():
        dist.fill(own[name], value.to(own[name].dtype))


def _choose(setup: Setup, trainer: Trainer, config: Anchor, *, note: bool) -> Path:
    """Return the checkpoint whose teacher becomes the anchor; all ranks must call together.

    Args:
        note: whether to write what was seen into anchor.json.

    Raises:
        UserError: if there is nothing to choose from or to judge by.
    """
    folder, kept = _earlier(setup.run, trainer)
    # the first that was kept from each step on: after a bad step it comes late
    rows = sorted({bisect_left(kept, step) for step in config.steps(max(kept, default=0))})
    found = [folder.checkpoint(kept[row]) for row in rows if row < len(kept)]
    if not found or (folder == setup.run and not trainer.first):
        raise UserError(
            "anchor.source auto chooses from the checkpoints of earlier stages, and there is none; put the anchor into "
            "a stage, or begin with a run that kept some (--from RUN)"
        )
    probe = setup.probe(trainer, images=config.images)
    if probe is None:
        raise UserError(
            f"anchor.source auto looks at images of {setup.images.name}, and fewer than two of them can be read"
        )
    seen = {path: _signs(path, trainer, probe) for path in found}
    localities = {path: signs["locality"] for path, signs in seen.items() if signs is not None}
    if not localities:
        raise UserError(f"every checkpoint that anchor.source auto chooses from is damaged, as {found[0]} is")
    most = max(localities, key=lambda path: localities[path])
    largest = localities[most]
    best = next(path for path, value in localities.items() if value >= largest - CLOSE * abs(largest))
    if note and is_main():
        compared = {path.name: seen[path] for path in localities}
        write_json(setup.run.anchor, {"stage_begins": trainer.first, "chosen": str(best), "candidates": compared})
    reason = f"the largest locality, {largest:.3f}"
    if best != most:
        reason = (
            f"the earliest with a locality ({localities[best]:.3f}) within {CLOSE:.0%} of the largest "
            f"({largest:.3f}, step {int(most.name):,})"
        )
    info(f"anchor: the teacher of step {int(best.name):,}: of {len(localities)} compared {reason}")
    return best


def _kept_at(setup: Setup, trainer: Trainer, step: int) -> Path:
    """Return the checkpoint that a stage means by a step: of this run the first from it on, after a bad step.

    Raises:
        UserError: if none was kept.
    """
    folder, kept = _earlier(setup.run, trainer)
    found = [each for each in kept if each == step or (folder == setup.run and each > step)]
    if not found:
        raise UserError(
            f"{folder.path} keeps no teacher of step {step}; "
            f"anchor.source may be {', '.join(map(str, kept)) or 'start'}"
        )
    return folder.checkpoint(found[0])


def _earlier(run: RunFolder, trainer: Trainer) -> tuple[RunFolder, list[int]]:
    """Return whose teachers a stage may go back to, and of which steps: of this run, or of the one it began with."""
    folder, last = run, trainer.first
    if trainer.first == 0 and trainer.experiment.start is not None:
        folder, named = run_and_step(Path(trainer.experiment.start.source))
        last = named if named is not None else max(folder.steps(), default=0)
    return folder, [step for step in folder.steps() if step <= last]


@torch.no_grad()
def _signs(path: Path, trainer: Trainer, probe: Probe) -> Mapping[str, float] | None:
    """Return the signs of a teacher's dense health; None if its file cannot be read."""
    try:
        network = load(path).to(trainer.device)
    except UserError as error:
        warn(f"anchor: not compared: {error}")
        return None
    with trainer.autocast():
        own = look(network, probe.batches(trainer.device))
        mirror = look(network, mirrored(probe.batches(trainer.device)))
    found = places(own.everyone(), mirror.everyone())
    if not found:
        raise UserError(
            f"anchor.source auto compares distances in maps of at least 3 patches in a row, got "
            f"{' x '.join(map(str, own.features.grid))}; set anchor.source to start, a step or the path of a model"
        )
    return found


def _model(source: str, trainer: Trainer) -> tuple[dict[str, Tensor], str | None]:
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
        info(f"{source} has no {MASK}: it begins at random, and learns where all of the backbone does")
    elif MASK in found.keys() - wanted.keys():
        del found[MASK]  # nothing is hidden from the network that is trained
    if not isinstance(network, Built):
        raise UserError(f"{source} runs in another library, which trains it; begin with weights that are a file")
    if {name: value.shape for name, value in wanted.items() if name != MASK or name in found} != {
        name: value.shape for name, value in found.items()
    }:
        raise _misfit(source, network.config, trainer)
    return found, network.licence
