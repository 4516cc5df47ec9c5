"""What is written of a run while it trains: metrics.jsonl, trackers, and what the person at the terminal sees."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from dinokit.core import dist
from dinokit.core.files import append_jsonl, read_jsonl
from dinokit.core.log import console, info
from dinokit.health.verdict import Line, Verdict
from dinokit.run.panel import Say, clock_time, live, losses, speed
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
        self.trackers = Trackers(setup.run, setup.config, start=start + 1) if dist.is_main() else None
        self.window = Window()
        self.say: Say = lambda step, means, verdict, left: None
        self.judge: Callable[[Line], Verdict | None] = lambda line: None
        self.first: tuple[int, float] | None = None  # step and time of the first line, from which on the pace is taken

    def add(
        self, step: int, values: dict[str, float], *, images: int, seconds: float, waited: float, clock: float
    ) -> None:
        """Record the step that just ended.

        Args:
            step: number of steps done.
            clock: seconds of training since the run's first start.
        """
        self.window.add(values, images=images, seconds=seconds, waited=waited)
        if step % self.every == 0 or step == self.steps:
            self.flush(step, clock=clock)

    def flush(self, step: int, *, clock: float) -> None:
        """Write the line of the steps since the last one; a checkpoint calls this, so that no step is lost with it."""
        if not self.window.steps:
            return
        means = self.window.means()
        self.window = Window()
        if not dist.is_main():
            return
        finite = {name: value for name, value in means.items() if math.isfinite(value)}
        line = {"step": step, "time": round(clock, 3)} | finite
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
        self.say(step, means, verdict, left)

    def lines(self) -> list[Line]:
        """Return the lines of steps that the log holds already; measurements of checkpoints are left out."""
        return [line for line in read_jsonl(self.run.metrics) if "evaluation" not in line] if dist.is_main() else []

    @contextmanager
    def shown(self) -> Iterator["Journal"]:
        """Show progress while the body runs: a live panel in a terminal, a plain line every few seconds elsewhere."""
        try:
            if console.is_terminal:
                with live(self.run.path.name, steps=self.steps, start=self.start) as self.say:
                    yield self
            else:
                self.say = _plain(self.steps)
                yield self
        finally:
            if self.trackers is not None:
                self.trackers.close()


def _plain(steps: int) -> Say:
    last = -math.inf

    def say(step: int, means: Mapping[str, float], _verdict: Verdict | None, left: float | None) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < PLAIN_SECONDS and step != steps:
            return
        last = now
        terms = ", ".join(f"{name} {value:.3f}" for name, value in losses(means).items())
        remaining = "" if left is None else f" · {clock_time(left)} left"
        info(f"step {step}/{steps} · loss {means.get('loss', math.nan):.3f} ({terms}) · {speed(means)}{remaining}")

    return say
