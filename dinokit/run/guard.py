"""Steps whose loss or gradient is not finite: skipped, written down, and too many of them send the run back.

A step that is skipped leaves no trace in weights, moments, teacher or centre. RUN/bad_steps.jsonl gets what it takes to
repeat it: the step, its images, seed, and what was not finite; every draw of a step follows from seed and step. When
`runtime.rollback.after` of the last 100 steps were bad, in a row or not, the run returns to its newest checkpoint and
goes on from there with a lower learning rate and the images behind those of the last bad step, for rate and images may
both be the cause. Source: PaLM (arXiv:2204.02311) section 5.1, which skipped the batches around each spike.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import isfinite

from dinokit.checkpoints.store import Clock
from dinokit.core import dist
from dinokit.core.files import append_jsonl
from dinokit.core.messages import RunError, is_main, warn
from dinokit.run.setup import Setup
from dinokit.training.step import Report

WINDOW = 100  # steps in which the bad ones are counted


class Diverged(Exception):
    """Too many steps were not finite."""


def last_is_bad(clock: Clock) -> bool:
    """Tell whether the last step was skipped: nothing then says that the weights are good."""
    return clock.recent[-1:] == (clock.step,)


@dataclass(frozen=True)
class Place:
    """Where an image of a step came from."""

    index: int  # in the source
    key: str
    rank: int
    micro: int  # which of the step's micro-batches


def skip(setup: Setup, report: Report, clock: Clock, images: Sequence[Place]) -> None:
    """Count and write down a step that is not finite, before the clock moves on; all ranks must call together.

    Args:
        images: this rank's, in the order of its micro-batches.

    Raises:
        Diverged: if it was one too many.
    """
    step, run, config = clock.step + 1, setup.run, setup.config
    clock.recent = (*(bad for bad in clock.recent if bad > step - WINDOW), step)
    clock.bad_steps += 1
    everyone = dist.gather_lists(list(images))
    if is_main():
        line: dict[str, object] = {
            "step": step,
            "rollbacks": clock.rollbacks,
            "lr_factor": clock.lr_factor,
            "seed": config.experiment.seed,
            "fault": report.fault,
            "values": {name: value if isfinite(value) else str(value) for name, value in report.values.items()},
            "ahead": clock.ahead,
            "images": [asdict(place) for place in everyone],
        }
        append_jsonl(run.bad_steps, line)
    warn(
        f"step {step} is skipped: {report.fault}; look with dinokit replay {run.path} {step}, as long as a "
        "state from before it is kept (runtime.keep)"
    )
    if len(clock.recent) >= config.runtime.rollback.after:
        raise Diverged(f"{len(clock.recent)} of the last {min(WINDOW, step)} steps had no finite loss or gradient")


def lowered(setup: Setup, clock: Clock, *, back_to: Clock, why: Diverged) -> Clock:
    """Return the clock of a run that goes back.

    Raises:
        RunError: if it has gone back often enough.
    """
    config = setup.config.runtime.rollback
    if clock.rollbacks >= config.most:
        raise RunError(
            f"{why}, after {clock.rollbacks} times going back with a lower learning rate; saved is step "
            f"{back_to.step}; look with dinokit replay {setup.run.path} {clock.step + 1}, then lower optim.lr in a "
            "new run"
        )
    behind = clock.step + 1 + clock.ahead  # the batch that nobody has seen
    found = replace(
        back_to,
        bad_steps=clock.bad_steps,
        recent=(),
        rollbacks=clock.rollbacks + 1,
        lr_factor=clock.lr_factor * config.factor,
        ahead=behind - back_to.step,
    )
    warn(
        f"{why}: back to step {found.step} with {found.lr_factor:g} of the learning rate and other images "
        f"({found.rollbacks} of at most {config.most} times)"
    )
    return found
