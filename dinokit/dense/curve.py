"""What the training of heads tells: its curve on disk, and a panel, or lines where there is no place for one.

training.jsonl has a line per so many steps, of means since the line before:

    {"step", "loss", "loss/TERM", ..., "lr", "seconds"}  of one head; terms, if its loss has some; seconds of a step
    {"step", "loss", "loss/HEAD", ..., "lr/HEAD", ..., "seconds"}    of several; their mean comes first

A training that goes on cuts it back to where it goes on from, so each step is told once, as if nothing had been.
"""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import final

from dinokit.core.files import append_jsonl, keep_lines
from dinokit.core.messages import info
from dinokit.core.panel import OFTEN, Say, State, shown

CURVE = "training.jsonl"  # not metrics.jsonl, which is that of a run, should both be in one folder
LINES = 300  # of a curve, if there are as many steps
RECENT = 100  # steps whose losses are held, and at most between two lines
Losses = dict[str, float]  # of a head at a step: loss, and by their names the terms of it


@final
class Story:
    """Tells of a training while it goes on.

    Args:
        rates: the peak of each head's learning rate.
        steps: in all.
        start: of them are done.
        folder: keeps the curve; None keeps none.
    """

    def __init__(self, rates: Sequence[float], *, steps: int, start: int, folder: Path | None) -> None:
        self.rates, self.steps, self.start = rates, steps, start
        self.name = "training" if folder is None else folder.resolve().name
        self.every = min(RECENT, max(1, steps // LINES))
        self.losses: Sequence[Sequence[Losses]] = []  # of the last steps
        self._path = None if folder is None else folder / CURVE
        self._times = deque([time.monotonic()], RECENT + 1)
        self._say: Say = self._line
        self._said = 0.0  # when
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            keep_lines(self._path, lambda line: line["step"] <= start)

    @contextmanager
    def shown(self) -> Iterator["Story"]:
        """Show progress while the body runs."""
        with shown(self.name, steps=self.steps, start=self.start, plain=self._line) as self._say:
            yield self

    def add(self, step: int, losses: Sequence[Sequence[Losses]], *, share: float) -> None:
        """Tell of a step that is done.

        Args:
            losses: of the last steps, up to RECENT, of each head.
            share: of the peak, the learning rate of the step.
        """
        self.losses = losses
        self._times.append(time.monotonic())
        last = step == self.steps
        if self._path is not None and (last or step % self.every == 0):
            since = step % self.every or self.every
            told = self._numbers(means(losses[-since:]), share)
            seconds = self._pace(since)
            append_jsonl(self._path, {"step": step} | {name: float(f"{x:.6g}") for name, x in told.items()} | seconds)
        if last or self._is_tenth(step) or self._times[-1] - self._said >= OFTEN:
            self._said = self._times[-1]
            self._say(self._state(step, share))

    def _numbers(self, every: Sequence[Losses], share: float) -> dict[str, float]:
        """Name the losses and the rates."""
        if len(every) == 1:
            return _named(every[0]) | {"lr": self.rates[0] * share}
        heads = self._heads()
        found = {"loss": sum(each["loss"] for each in every) / len(every)}
        found |= {f"loss/{head}": each["loss"] for head, each in zip(heads, every, strict=True)}
        return found | {f"lr/{head}": rate * share for head, rate in zip(heads, self.rates, strict=True)}

    def _heads(self) -> list[str]:
        """Name heads by the peaks of their rates, and by their number where these are the same."""
        names = [f"lr {rate:g}" for rate in self.rates]
        return names if len(set(names)) == len(names) else [f"{turn}, {name}" for turn, name in enumerate(names, 1)]

    def _pace(self, steps: int) -> dict[str, float]:
        """Return the seconds of one of the last steps."""
        steps = min(steps, len(self._times) - 1)
        return {"seconds": round((self._times[-1] - self._times[-1 - steps]) / steps, 4)}

    def _state(self, step: int, share: float) -> State:
        every, seconds = means(self.losses), self._pace(RECENT)["seconds"]
        found, rates = _named(every[0]), f"{self.rates[0] * share:.2g}"
        if len(every) > 1:
            found = {"loss": sum(each["loss"] for each in every) / len(every)}
            found |= {f"loss/{head}/loss": each["loss"] for head, each in zip(self._heads(), every, strict=True)}
            rates = f"{100 * share:.0f}% of each"
        pace = f"lr {rates} · {seconds:.3g} s a step"
        return State(step, found, pace, seconds * (self.steps - step), each="head")

    def _is_tenth(self, step: int) -> bool:
        return step % max(1, self.steps // 10) == 0

    def _line(self, state: State) -> None:
        """Say a line at every tenth of the way."""
        if state.step == self.steps or self._is_tenth(state.step):
            told = ", ".join(f"{each['loss']:.4f}" for each in means(self.losses))
            info(f"step {state.step:,} of {self.steps:,} · loss {told}")


def means(losses: Sequence[Sequence[Losses]]) -> list[Losses]:
    """Return the mean losses of each head over some steps; a term counts where it is told."""
    return [{name: _mean(column, name) for name in column[-1]} for column in zip(*losses)]


def _mean(column: Sequence[Losses], name: str) -> float:
    values = [each[name] for each in column if name in each]
    return sum(values) / len(values)


def _named(one: Losses) -> dict[str, float]:
    return {name if name == "loss" else f"loss/{name}": value for name, value in one.items()}
