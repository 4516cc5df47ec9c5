"""What is written of a run while it trains: metrics.jsonl, trackers, and what the person at the terminal sees."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module

from rich.console import Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dinokit.checkpoints.store import Clock
from dinokit.core.files import append_jsonl, read_jsonl
from dinokit.core.messages import console, info, is_main
from dinokit.health.verdict import HEALTHY, STARTING, Line, Verdict
from dinokit.run.setup import Setup
from dinokit.run.trackers import Trackers

PLAIN_SECONDS = 10.0  # between lines when the output is not a terminal


@dataclass(frozen=True)
class State:
    """What there is to say."""

    step: int  # done
    means: Mapping[str, float]  # since the last line
    verdict: Verdict | None = None
    left: float | None = None  # seconds


Say = Callable[[State], None]


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
        self.say(State(step, means, verdict, left))

    def lines(self) -> list[Line]:
        """Return the lines of steps that the log holds already; measurements of checkpoints are left out."""
        return [line for line in read_jsonl(self.run.metrics) if "evaluation" not in line] if is_main() else []

    @contextmanager
    def shown(self) -> Iterator["Journal"]:
        """Show progress while the body runs: a panel in a terminal or below a notebook's cell, else plain lines."""
        try:
            if console.is_jupyter:
                self.say = _in_notebook(self.run.path.name, steps=self.steps, start=self.start)
                yield self
            elif console.is_terminal:
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

    def say(state: State) -> None:
        nonlocal last
        now, means = time.monotonic(), state.means
        if now - last < PLAIN_SECONDS and state.step != steps:
            return
        last = now
        terms = ", ".join(f"{name} {value:.3f}" for name, value in losses(means).items())
        left = "" if state.left is None else f" · {clock_time(state.left)} left"
        info(f"step {state.step}/{steps} · loss {means.get('loss', math.nan):.3f} ({terms}) · {speed(means)}{left}")

    return say


def _in_notebook(name: str, *, steps: int, start: int) -> Say:
    """Show the panel below the cell and draw it again, at most four times a second; it stays when the run has ended.

    Rich's own live display would need ipywidgets, and leave nothing in a notebook that is stored.
    """
    began, drawn = time.monotonic(), 0.0
    display = import_module("IPython.display").display  # this runs inside of it
    handle = display(panel(name, State(start, {}), steps=steps, passed=0.0), display_id=True)

    def say(state: State) -> None:
        nonlocal drawn
        now = time.monotonic()
        if now - drawn >= 0.25 or state.step == steps:
            drawn = now
            handle.update(panel(name, state, steps=steps, passed=now - began))

    return say


@contextmanager
def live(name: str, *, steps: int, start: int) -> Iterator[Say]:
    """Show the panel while the body runs, and hand over what fills it.

    Args:
        name: of the run.
        steps: in all.
        start: of them are done.
    """
    began, said = time.monotonic(), State(start, {})

    def drawn() -> Panel:
        return panel(name, said, steps=steps, passed=time.monotonic() - began)

    def say(state: State) -> None:
        nonlocal said
        said = state

    with Live(get_renderable=drawn, console=console, refresh_per_second=4):
        yield say


def panel(name: str, state: State, *, steps: int, passed: float) -> Panel:
    """Draw what is known, in lines that are read at 80 columns and at any more.

    Args:
        passed: seconds of this start.
    """
    bar = Table.grid(expand=True, padding=(0, 1))
    bar.add_column(ratio=1)
    bar.add_column(no_wrap=True)
    times = f"{clock_time(passed)} passed" + ("" if state.left is None else f" · {clock_time(state.left)} left")
    bar.add_row(ProgressBar(total=steps, completed=state.step), f"{state.step:,}/{steps:,} · {times}")
    parts: list[RenderableType] = [bar]
    if means := state.means:
        parts += [_terms(means), Text(f"loss {means.get('loss', math.nan):.3f} · {speed(means)}")]
    if verdict := state.verdict:
        parts.append(Text(verdict.line, style={HEALTHY: "green", STARTING: "dim"}.get(verdict.word, "yellow")))
    return Panel(Group(*parts), title=name, title_align="left", border_style="dim")


def _terms(means: Mapping[str, float]) -> Table:
    """Write the terms of the loss below their names; of several students each has a row."""
    rows: dict[str, dict[str, float]] = {}
    for name, value in losses(means).items():
        student, _, term = name.rpartition("/")
        rows.setdefault(student, {})[term] = value
    names = list(dict.fromkeys(term for row in rows.values() for term in row))
    table = Table(box=None, pad_edge=False, header_style="dim")
    if "" not in rows:
        table.add_column("student")
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for student, row in rows.items():
        numbers = [f"{row[name]:.3f}" if name in row else "" for name in names]
        table.add_row(*([student] if student else []), *numbers)
    return table


def losses(means: Mapping[str, float]) -> dict[str, float]:
    """Pick the terms of the loss, by their own names."""
    return {name.removeprefix("loss/"): value for name, value in means.items() if name.startswith("loss/")}


def speed(means: Mapping[str, float]) -> str:
    """Say how fast it goes, and how much of the time it waits for data."""
    return f"{means['images_per_second']:.1f} img/s · {100 * means['data_wait']:.0f}% data wait"


def clock_time(seconds: float) -> str:
    """Write a duration as minutes and seconds, or with hours."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
