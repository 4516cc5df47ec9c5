"""The panel that every training shows: how far it is, its losses, how fast it goes and how long it still takes.

It is drawn in a terminal, or once below a notebook's cell; where there is neither, a training says lines.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module

from rich.console import Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dinokit.core.messages import console

OFTEN = 0.25  # seconds between two pictures


@dataclass(frozen=True)
class State:
    """What there is to say."""

    step: int  # done
    means: Mapping[str, float]  # of late: loss, and its terms as loss/TERM or loss/WHO/TERM
    pace: str = ""  # how fast it goes
    left: float | None = None  # seconds
    remark: tuple[str, str] = "", ""  # a line, and its style
    each: str = "student"  # what those are of which each has a row of terms


Say = Callable[[State], None]


@contextmanager
def shown(name: str, *, steps: int, start: int, plain: Say) -> Iterator[Say]:
    """Show progress while the body runs, and hand over what is told of it.

    Args:
        name: of the training.
        steps: in all.
        start: of them are done.
        plain: says it in lines, where there is no place for a panel.
    """
    if console.is_jupyter:
        yield _in_notebook(name, steps=steps, start=start)
    elif console.is_terminal:
        with live(name, steps=steps, start=start) as say:
            yield say
    else:
        yield plain


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
        if now - drawn >= OFTEN or state.step == steps:
            drawn = now
            handle.update(panel(name, state, steps=steps, passed=now - began))

    return say


@contextmanager
def live(name: str, *, steps: int, start: int) -> Iterator[Say]:
    """Show the panel in a terminal while the body runs, and hand over what fills it."""
    began, said = time.monotonic(), State(start, {})

    def drawn() -> Panel:
        return panel(name, said, steps=steps, passed=time.monotonic() - began)

    def say(state: State) -> None:
        nonlocal said
        said = state

    with Live(get_renderable=drawn, console=console, refresh_per_second=1 / OFTEN):
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
        parts += [_terms(means, state.each)] if losses(means) else []
        told = [f"loss {means['loss']:.3f}"] if "loss" in means else []
        parts.append(Text(" · ".join([*told, *filter(None, [state.pace])])))
    line, style = state.remark
    if line:
        parts.append(Text(line, style=style))
    return Panel(Group(*parts), title=name, title_align="left", border_style="dim")


def _terms(means: Mapping[str, float], each: str) -> Table:
    """Write the terms of the loss below their names; of several that learn each has a row."""
    rows: dict[str, dict[str, float]] = {}
    for name, value in losses(means).items():
        student, _, term = name.rpartition("/")
        rows.setdefault(student, {})[term] = value
    names = list(dict.fromkeys(term for row in rows.values() for term in row))
    table = Table(box=None, pad_edge=False, header_style="dim")
    if "" not in rows:
        table.add_column(each)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for student, row in rows.items():
        numbers = [f"{row[name]:.3f}" if name in row else "" for name in names]
        table.add_row(*([student] if student else []), *numbers)
    return table


def losses(means: Mapping[str, float]) -> dict[str, float]:
    """Pick the terms of the loss, by their own names."""
    return {name.removeprefix("loss/"): value for name, value in means.items() if name.startswith("loss/")}


def clock_time(seconds: float) -> str:
    """Write a duration as minutes and seconds, or with hours."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
