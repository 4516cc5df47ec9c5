"""The live panel of a run in a terminal: how far it is, how fast, what it learns, how it is."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dinokit.core.log import console
from dinokit.health.verdict import HEALTHY, STARTING, Verdict

# steps done, means since the last line, how it is, seconds that are left
Say = Callable[[int, Mapping[str, float], Verdict | None, float | None], None]


@contextmanager
def live(name: str, *, steps: int, start: int) -> Iterator[Say]:
    """Show the panel while the body runs, and hand over what fills it.

    Args:
        name: of the run.
        steps: in all.
        start: of them are done.
    """
    began = time.monotonic()
    said: tuple[int, Mapping[str, float], Verdict | None, float | None] = (start, {}, None, None)

    def drawn() -> Panel:
        return panel(name, *said, steps=steps, passed=time.monotonic() - began)

    def say(step: int, means: Mapping[str, float], verdict: Verdict | None, left: float | None) -> None:
        nonlocal said
        said = (step, means, verdict, left)

    with Live(get_renderable=drawn, console=console, refresh_per_second=4):
        yield say


def panel(
    name: str,
    step: int,
    means: Mapping[str, float],
    verdict: Verdict | None,
    left: float | None,
    *,
    steps: int,
    passed: float,
) -> Panel:
    """Draw what is known, in lines that are read at 80 columns and at any more.

    Args:
        passed: seconds of this start.
    """
    bar = Table.grid(expand=True, padding=(0, 1))
    bar.add_column(ratio=1)
    bar.add_column(no_wrap=True)
    times = f"{clock_time(passed)} passed" + ("" if left is None else f" · {clock_time(left)} left")
    bar.add_row(ProgressBar(total=steps, completed=step), f"{step:,}/{steps:,} · {times}")
    parts: list[RenderableType] = [bar]
    if means:
        parts += [_terms(means), Text(f"loss {means.get('loss', math.nan):.3f} · {speed(means)}")]
    if verdict is not None:
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
