"""Steps whose loss or gradient is not finite: skipped, written down, and too many in a row send the run back.

A step that is skipped leaves no trace in weights, moments, teacher or centre. RUN/bad_steps.jsonl gets what it takes to
repeat it: the step, its images, seed, and what was not finite; every draw of a step follows from seed and step. After
`runtime.rollback.after` of them in a row the run returns to its newest checkpoint and goes on from there with a lower
learning rate. Order and crops of the images stay what they were: the rate is all that differs.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import final

from dinokit.checkpoints.store import Clock, RunFolder
from dinokit.core import dist
from dinokit.core.errors import RunError
from dinokit.core.files import append_jsonl, read_jsonl, write_jsonl
from dinokit.core.log import warn
from dinokit.training.config import Rollback
from dinokit.training.step import Report


class Diverged(Exception):
    """Too many steps in a row were not finite."""


@final
class Guard:
    """Counts bad steps in a row; all ranks see the same reports, so all decide alike."""

    def __init__(self, run: RunFolder, config: Rollback, *, seed: int) -> None:
        self.run, self.config, self.seed = run, config, seed
        self.in_a_row = 0

    def judge(self, report: Report, clock: Clock, images: Sequence[str]) -> None:
        """Count a step, before the clock moves on; all ranks must call together.

        Args:
            images: keys of this rank's, in the order of its micro-batches; needed for a bad step only.

        Raises:
            Diverged: if it was one too many.
        """
        if report.finite:
            self.in_a_row = 0
            return
        self.in_a_row += 1
        clock.bad_steps += 1
        everyone = dist.gather_lists(list(images))
        if dist.is_main():
            append_jsonl(self.run.bad_steps, _line(report, clock, everyone, seed=self.seed))
        warn(f"step {clock.step + 1} is skipped: {report.fault}; dinokit replay {self.run.path} {clock.step + 1}")
        if self.in_a_row >= self.config.after:
            raise Diverged(f"{self.in_a_row} steps in a row had no finite loss or gradient")

    def lowered(self, clock: Clock, *, back_to: Clock, why: Diverged) -> Clock:
        """Return the clock of a run that goes back.

        Raises:
            RunError: if it has gone back often enough.
        """
        if clock.rollbacks >= self.config.most:
            raise RunError(
                f"{why}, after {clock.rollbacks} times going back with a lower learning rate; saved is step "
                f"{back_to.step}; look with dinokit replay {self.run.path} {clock.step + 1}, then lower optim.lr in a "
                "new run"
            )
        lowered = replace(back_to, rollbacks=clock.rollbacks + 1, lr_factor=clock.lr_factor * self.config.factor)
        warn(
            f"{why}: back to step {lowered.step} with {lowered.lr_factor:g} of the learning rate "
            f"({lowered.rollbacks} of at most {self.config.most} times)"
        )
        return lowered


def forget_repeated(run: RunFolder, clock: Clock) -> None:
    """Drop the bad steps that a run which continues from here will take again; those before it went back stay."""
    lines = read_jsonl(run.bad_steps)
    kept = [line for line in lines if line["step"] <= clock.step or line["rollbacks"] < clock.rollbacks]
    if len(kept) < len(lines):
        write_jsonl(run.bad_steps, kept)


def _line(report: Report, clock: Clock, images: list[str], *, seed: int) -> dict[str, object]:
    values = {name: value if math.isfinite(value) else str(value) for name, value in report.values.items()}
    return {
        "step": clock.step + 1,
        "rollbacks": clock.rollbacks,
        "lr_factor": clock.lr_factor,
        "seed": seed,
        "fault": report.fault,
        "values": values,
        "images": images,
    }
