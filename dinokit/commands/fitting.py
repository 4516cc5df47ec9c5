"""Heads that learn alone, in front of an adaptation, until their loss settles.

They take their steps in portions, as many as it takes while the loss falls, by what the log of the run says: of all
their steps so far, the mean of the last tenth beside that of the tenth before.
"""

from collections.abc import Sequence
from dataclasses import replace
from statistics import mean
from typing import final

from dinokit.checkpoints.store import RunFolder
from dinokit.config import to_yaml
from dinokit.core.files import read_jsonl, write_text
from dinokit.core.messages import info, is_main
from dinokit.training.config import TrainConfig, read

SETTLED = 0.01  # of the loss: what it may still fall by
PORTIONS, TENTH = 4, 2  # at most; lines of the log that a tenth has at least


@final
class Fitting:
    """The first stage of a run, whose heads learn.

    Args:
        portion: steps that they take at a time.
        config: of the run, as it was begun last.
    """

    def __init__(self, run: RunFolder, config: TrainConfig, *, portion: int) -> None:
        self.run, self.config, self.portion, self.end = run, config, portion, config.experiment.steps
        self._said = False

    def look(self, step: int) -> bool:
        """Tell whether the run is to end at this checkpoint, as the heads are to learn on; say how they are."""
        if step != self.end:
            return False
        if not self._said:  # a stage that begins hands its checkpoint over once more
            self._said = True
            info(judged(self._losses(), more=self.portion if self._goes_on() else 0))
        return self._goes_on()

    def longer(self) -> TrainConfig | None:
        """Return the settings with another portion, which the run keeps; None where the heads are done."""
        if self.run.steps()[-1] != self.end or not self._goes_on():
            return None
        steps = self.end + self.portion
        if is_main():  # a start knows by it how long they are
            write_text(self.run.config, to_yaml(lengthened(read(self.run.config), steps)))
        return lengthened(self.config, steps)

    def _goes_on(self) -> bool:
        """Tell whether the loss falls and they may take more steps; the log says it on all ranks."""
        found = change(self._losses())
        return self.end < PORTIONS * self.portion and found is not None and found < -SETTLED

    def _losses(self) -> list[float]:
        lines = (line for line in read_jsonl(self.run.metrics) if line.get("step", 0) <= self.end)
        return [line["loss"] for line in lines if "loss" in line]


def begun(run: RunFolder, config: TrainConfig) -> TrainConfig:
    """Return the settings with which a start goes on: heads that had not settled have taken several portions."""
    portion = config.experiment.steps
    steps = read(run.config).experiment.steps if run.steps() else portion
    return lengthened(config, steps) if steps in range(portion, PORTIONS * portion + 1, portion) else config


def lengthened(config: TrainConfig, steps: int) -> TrainConfig:
    """Let the heads learn for so many steps, whose first ones stay to the bit what they were."""
    return replace(config, experiment=replace(config.experiment, steps=steps))


def logged(config: TrainConfig) -> TrainConfig:
    """Let a run write its log as often as it takes to judge the heads."""
    every = max(1, min(config.runtime.log_every, config.experiment.steps // (10 * TENTH)))
    return replace(config, runtime=replace(config.runtime, log_every=every))


def change(losses: Sequence[float]) -> float | None:
    """Return by which share of itself a loss changed from the last tenth but one to the last; None of too few."""
    part = len(losses) // 10
    if part < TENTH:
        return None
    before, last = sum(losses[-2 * part : -part]), sum(losses[-part:])
    return (last - before) / abs(before)


def judged(losses: Sequence[float], *, more: int = 0) -> str:
    """Say whether the loss of the heads has settled, or for how many steps more they learn."""
    by, tenth = change(losses), "in the last tenth of their steps"
    if by is None:
        return (
            f"heads: too few lines of the log to say whether their loss has settled, {10 * TENTH} at least; give more "
            "--heads or a smaller --log_every. The backbone learns now"
        )
    last = mean(losses[-(len(losses) // 10) :])
    if by >= -SETTLED:
        return f"heads: their loss has settled at {last:.3f} ({by:+.1%} {tenth})"
    then = f"{more:,} steps more" if more else "give more --heads"
    return f"heads: their loss still falls ({-by:.1%} {tenth}, to {last:.3f}); {then}"
