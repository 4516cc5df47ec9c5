"""Where a stage begins: at its newest checkpoint, with what the stage before has learnt, or at the start of a run."""

from collections.abc import Mapping

from torch import Tensor

from dinokit.checkpoints.load import is_finite
from dinokit.checkpoints.store import Clock
from dinokit.config import to_yaml
from dinokit.core import dist
from dinokit.core.files import keep_lines
from dinokit.core.messages import RunError, UserError, is_main
from dinokit.run.anchoring import set_anchor
from dinokit.run.origin import licence_at, weights_of
from dinokit.run.setup import Setup
from dinokit.training.config import RunStage
from dinokit.training.course import Begin
from dinokit.training.step import Trainer


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
    trainer.backbone.teacher.licence = licence_at(run, clock.step)
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
