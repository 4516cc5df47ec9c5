"""What is written of a run while it trains: metrics.jsonl, trackers, and what the person at the terminal sees."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from dinokit.checkpoints.store import Clock
from dinokit.core.files import append_jsonl, read_jsonl
from dinokit.core.messages import info, is_main
from dinokit.core.panel import Say, State, clock_time, losses, shown
from dinokit.health.verdict import HEALTHY, STARTING, Line, Verdict
from dinokit.run.setup import Setup
from dinokit.run.trackers import Trackers

PLAIN_SECONDS = 10.0  # between lines when the output is not a terminal


@dataclass
class Window:
    """Sums over the steps since the last line of the log."""

    steps: int = 0
    images: int = 0
    seconds: float = 0.0
    waited: float = 0.0  # seconds spent waiting for data
    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, values: dict[str, float], *, images: int, seconds: float, waited: float) -> None:
        """Count one step."""
        self.steps += 1
        self.images += images
        self.seconds += seconds
        self.waited += waited
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1

    def means(self) -> dict[str, float]:
        """Return the mean of each value, images per second and the fraction of time spent waiting for data."""
        means = {name: value / self.counts[name] for name, value in self.sums.items()}
        return means | {"images_per_second": self.images / self.seconds, "data_wait": self.waited / self.seconds}


class Journal:
    """Writes one line per so many steps to metrics.jsonl and the trackers, and tells the person at the terminal.

    Args:
        start: steps that are done.
    """

    def __init__(self, setup: Setup, *, start: int) -> None:
        self.run, self.start, self.steps = setup.run, start, setup.stages[-1].last
        self.every = setup.config.runtime.log_every
        self.trackers = Trackers(setup.run, setup.config, start=start + 1) if is_main() else None
        self.window = Window()
        self.say: Say = lambda state: None
        self.judge: Callable[[Line], Verdict | None] = lambda line: None
        self.first: tuple[int, float] | None = None  # step and time of the first line, from which on the pace is taken

    def add(self, clock: Clock, values: dict[str, float], *, images: int, seconds: float, waited: float) -> None:
        """Record the step that just ended."""
        self.window.add(values, images=images, seconds=seconds, waited=waited)
        if clock.step % self.every == 0 or clock.step == self.steps:
            self.flush(clock)
        elif clock.step == self.start + 1 and is_main():  # it is seen to train; the log has a line of whole periods
            means = self.window.means()
            self.say(State(clock.step, means, speed(means)))

    def flush(self, clock: Clock) -> None:
        """Write the line of the steps since the last one; a checkpoint calls this, so that no step is lost with it."""
        if not self.window.steps:
            return
        step, means = clock.step, self.window.means()
        self.window = Window()
        if not is_main():
            return
        finite = {name: value for name, value in means.items() if math.isfinite(value)}
        line = {"step": step, "time": round(clock.seconds, 3)} | finite
        verdict = self.judge(line)
        append_jsonl(self.run.metrics, line | ({} if verdict is None else {"verdict": verdict.line}))
        if self.trackers is not None:
            self.trackers.log(finite, step=step)
        # measurements and checkpoints included, the slow first steps not: so that it hardly jumps
        now, left = time.monotonic(), None
        if self.first is None:
            self.first = (step, now)
        elif step > self.first[0]:
            left = (now - self.first[1]) / (step - self.first[0]) * (self.steps - step)
        self.say(State(step, means, speed(means), left, _remark(verdict)))

    def lines(self) -> list[Line]:
        """Return the lines of steps that the log holds already; measurements of checkpoints are left out."""
        return [line for line in read_jsonl(self.run.metrics) if "evaluation" not in line] if is_main() else []

    @contextmanager
    def shown(self) -> Iterator["Journal"]:
        """Show progress while the body runs: a panel in a terminal or below a notebook's cell, else plain lines."""
        steps = self.steps
        try:
            with shown(self.run.path.name, steps=steps, start=self.start, plain=_plain(steps)) as self.say:
                yield self
        finally:
            if self.trackers is not None:
                self.trackers.close()


def _plain(steps: int) -> Say:
    last = -math.inf

    def say(state: State) -> None:
        nonlocal last
        now, means = time.monotonic(), state.means
        if now - last < PLAIN_SECONDS and state.step != steps:
            return
        last = now
        terms = ", ".join(f"{name} {value:.3f}" for name, value in losses(means).items())
        left = "" if state.left is None else f" · {clock_time(state.left)} left"
        info(f"step {state.step}/{steps} · loss {means.get('loss', math.nan):.3f} ({terms}) · {state.pace}{left}")

    return say


def speed(means: Mapping[str, float]) -> str:
    """Say how fast it goes, and how much of the time it waits for data."""
    return f"{means['images_per_second']:.1f} img/s · {100 * means['data_wait']:.0f}% data wait"


def _remark(verdict: Verdict | None) -> tuple[str, str]:
    """Return what is said of its health, and in which style."""
    if verdict is None:
        return "", ""
    return verdict.line, {HEALTHY: "green", STARTING: "dim"}.get(verdict.word, "yellow")
