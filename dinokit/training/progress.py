"""What one sees of a run: a live line in a terminal or plain lines elsewhere, metrics.jsonl, TensorBoard."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from dinokit.checkpoints.store import RunFolder
from dinokit.core import dist
from dinokit.core.files import append_jsonl, read_jsonl
from dinokit.core.log import console, info
from dinokit.training.verdict import Line, Verdict

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
    """Writes one line per `every` steps to metrics.jsonl and TensorBoard, and tells the person at the terminal."""

    def __init__(self, run: RunFolder, *, steps: int, every: int, tensorboard: bool, start: int) -> None:
        self.run, self.steps, self.every = run, steps, every
        self.window = Window()
        self.say: Callable[[int, dict[str, float]], None] = lambda step, means: None
        self.judge: Callable[[Line], Verdict | None] = lambda line: None
        self.writer = SummaryWriter(str(run.events), purge_step=start) if tensorboard and dist.is_main() else None

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
        if self.writer is not None:
            for name, value in finite.items():
                self.writer.add_scalar(name, value, step)
        self.say(step, means)

    def lines(self) -> list[Line]:
        """Return the lines of steps that the log holds already; measurements of checkpoints are left out."""
        return [line for line in read_jsonl(self.run.metrics) if "evaluation" not in line] if dist.is_main() else []

    def close(self) -> None:
        """Flush what is buffered."""
        if self.writer is not None:
            self.writer.close()

    @contextmanager
    def shown(self, *, start: int) -> Iterator[None]:
        """Show progress while the body runs: live in a terminal, a plain line every few seconds elsewhere."""
        if not console.is_terminal:
            self.say = _plain(self.steps, start=start)
            yield
            return
        columns = (
            TextColumn("[bold]training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, refresh_per_second=4) as progress:
            task = progress.add_task("training", total=self.steps, completed=start, facts="")
            self.say = lambda step, means: progress.update(task, completed=step, facts=_facts(means))
            yield


def _facts(means: dict[str, float]) -> str:
    terms = [f"{name.removeprefix('loss/')} {value:.3f}" for name, value in means.items() if name.startswith("loss/")]
    speed = f"{means['images_per_second']:.1f} img/s · {100 * means['data_wait']:.0f}% data wait"
    return f"loss {means.get('loss', math.nan):.3f} ({', '.join(terms)}) · {speed}"


def _plain(steps: int, *, start: int) -> Callable[[int, dict[str, float]], None]:
    began = time.monotonic()
    last = -math.inf

    def say(step: int, means: dict[str, float]) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < PLAIN_SECONDS and step != steps:
            return
        last = now
        remaining = (now - began) / (step - start) * (steps - step)
        info(f"step {step}/{steps} · {_facts(means)} · {_clock(remaining)} left")

    return say


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
