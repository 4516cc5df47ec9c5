"""The live panel of a run in a terminal: how far it is, how fast, what it learns, how it is."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from dinokit.core.log import console
from dinokit.health.verdict import HEALTHY, STARTING, Verdict

Say = Callable[[int, Mapping[str, float], Verdict | None], None]  # steps done, means since the last line, how it is


@contextmanager
def live(name: str, *, steps: int, start: int) -> Iterator[Say]:
    """Show the panel while the body runs, and hand over what fills it.

    Args:
        name: of the run.
        steps: in all.
        start: of them are done.
    """
    progress = Progress(
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("·"),
        TimeElapsedColumn(),
        TextColumn("passed ·"),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=console,
        expand=True,
    )
    task = progress.add_task("training", total=steps, completed=start)
    with Live(_panel(name, progress), console=console, refresh_per_second=4) as shown:

        def say(step: int, means: Mapping[str, float], verdict: Verdict | None) -> None:
            progress.update(task, completed=step)
            shown.update(_panel(name, progress, _numbers(means), *_spoken(verdict)))

        yield say


def losses(means: Mapping[str, float]) -> dict[str, float]:
    """Pick the terms of the loss, by their own names."""
    return {name.removeprefix("loss/"): value for name, value in means.items() if name.startswith("loss/")}


def speed(means: Mapping[str, float]) -> str:
    """Say how fast it goes, and how much of the time it waits for data."""
    return f"{means['images_per_second']:.1f} img/s · {100 * means['data_wait']:.0f}% data wait"


def _panel(name: str, *parts: RenderableType) -> Panel:
    return Panel(Group(*parts), title=name, title_align="left", border_style="dim")


def _numbers(means: Mapping[str, float]) -> Table:
    """Two rows: names above values."""
    shown = {"loss": means.get("loss", math.nan)} | losses(means)
    table = Table(box=None, expand=True, pad_edge=False, header_style="dim")
    for name in [*shown, "speed"]:
        table.add_column(name, no_wrap=True)
    table.add_row(*(f"{value:.3f}" for value in shown.values()), speed(means))
    return table


def _spoken(verdict: Verdict | None) -> list[Text]:
    if verdict is None:
        return []
    style = {HEALTHY: "green", STARTING: "dim"}.get(verdict.word, "yellow")
    return [Text(verdict.line, style=style)]
