"""What plans print: tables of parameters, operations and memory, and which rows of a tensor a GPU holds."""

import math
import re
from collections.abc import Iterable, Mapping

from rich.console import Console
from rich.table import Table
from torch import nn

from dinokit.core.messages import duration
from dinokit.planning.detection import DetectorPlan
from dinokit.planning.plan import Plan


def print_plan(plan: Plan, *, stage: str, layout: Mapping[str, nn.Module] | None) -> None:
    """Print what a run takes.

    Args:
        stage: its name.
        layout: networks whose tensors are listed with the rows that a rank holds.
    """
    console = Console()
    console.print(f"[bold]{stage}[/bold]")
    console.print(_table("parameters", plan.parameters.items(), unit="M", scale=1e6))
    console.print(_table("operations per image", plan.work.items(), unit="GFLOP", scale=1e9))
    console.print(_table(f"memory of each of {plan.ranks}", plan.memory.items(), unit="GB", scale=1e9))
    if plan.traffic:
        console.print(_table("sent by each in a step", plan.traffic.items(), unit="GB", scale=1e9))
    if layout is not None:
        console.print(_rows(layout, plan.ranks))
    console.print(
        f"{plan.images} images at a time x {plan.ranks} x {plan.accumulate} micro-batches · "
        f"{plan.seconds:.3g} s a step at {plan.rate / 1e12:.3g} TFLOP/s · {plan.steps:,} steps: {plan.hours:,.1f} h",
        soft_wrap=True,
    )
    console.print(plan.settings, soft_wrap=True)


def print_detector(plan: DetectorPlan, title: str) -> None:
    """Print what a detector on frozen features takes."""
    console = Console()
    console.print(f"[bold]{title}[/bold]", soft_wrap=True)
    console.print(_table("parameters", plan.parameters.items(), unit="M", scale=1e6))
    console.print(_table("operations per step", plan.work.items(), unit="GFLOP", scale=1e9))
    once = {"features of a view in training": plan.view, "an image at test: features, decoder": plan.image}
    console.print(_table("operations beside it", once.items(), unit="GFLOP", scale=1e9, total=False))
    console.print(_table("memory of a step", plan.memory.items(), unit="GB", scale=1e9))
    if plan.looking > plan.memory["activations and gradients"]:
        console.print(f"the backbone needs {plan.looking / 1e9:,.2f} GB for a view, before the step", soft_wrap=True)
    disk = {
        f"{plan.views:,} views: every image and its mirror": plan.disk,
        f"{plan.asked:,} views that {plan.steps:,} steps see": plan.asked_disk,
    }
    if plan.asked:
        console.print(_table("kept features, float16", disk.items(), unit="GB", scale=1e9, total=False))
        looks = f"{plan.asked:,} views are computed once and kept"
    else:
        looks = f"{plan.passes:,} views are drawn and computed anew, none is kept"
    console.print(
        f"{looks} · {plan.batch_size} images a step · {plan.peak / 1e9:,.2f} GB at the peak · "
        f"{plan.steps:,} steps at {plan.rate / 1e12:.3g} TFLOP/s: {duration(plan.seconds)}",
        soft_wrap=True,
    )


def held(shape: tuple[int, ...], rank: int, *, ranks: int) -> int:
    """Return how many numbers of a tensor a rank holds when it is sharded: rows as torch.chunk cuts the first axis."""
    rows = -(-shape[0] // ranks)
    return min(rows, max(shape[0] - rank * rows, 0)) * math.prod(shape[1:])


def _table(title: str, rows: Iterable[tuple[str, float]], *, unit: str, scale: float, total: bool = True) -> Table:
    rows = list(rows)
    table = Table(title, unit, box=None)
    table.columns[1].justify = "right"
    for name, value in rows:
        table.add_row(name, f"{value / scale:,.2f}")
    if total:
        table.add_row("in all", f"{sum(value for _, value in rows) / scale:,.2f}", style="bold")
    return table


def _rows(networks: Mapping[str, nn.Module], ranks: int) -> Table:
    """List the tensors of all blocks once, with how many there are of each."""
    groups: dict[tuple[str, tuple[int, ...], int], int] = {}
    for network, module in networks.items():
        for inner, parameter in module.named_parameters():
            shape = tuple(parameter.shape)
            key = (f"{network}.{re.sub(r'[.][0-9]+[.]', '.*.', inner)}", shape, held(shape, 0, ranks=ranks))
            groups[key] = groups.get(key, 0) + 1
    table = Table("tensor", "how many", "shape", f"numbers on the first of {ranks}", "MB", box=None)
    for (name, shape, own), count in groups.items():
        table.add_row(name, str(count), " x ".join(map(str, shape)), f"{own:,}", f"{4e-6 * own * count:,.2f}")
    return table
