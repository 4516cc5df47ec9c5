"""`dinokit plan`: predict what a run takes, and what settings fit the machines"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from torch import nn

from dinokit import recipes
from dinokit.config import NO_SETTINGS, Settings
from dinokit.core.files import check_result, write_json
from dinokit.core.messages import UserError, info
from dinokit.planning import cost
from dinokit.planning import plan as planning
from dinokit.training.config import with_settings


def plan(
    recipe: str,
    *,
    data: str = "",
    gpus: int = 1,
    gpu_memory: float | None = None,
    tflops: float | None = None,
    mfu: float = planning.MFU,
    layout: bool = False,
    out: Path | None = None,
    settings: Settings = NO_SETTINGS,
    **named: Any,
) -> dict[str, planning.Plan]:
    """Predict parameters, operations, memory, messages and hours of every stage, and what settings fit the machines.

    Any setting of the recipe can be changed as in `dinokit pretrain`.

    Args:
        recipe: a recipe's name or the config.yaml of a run.
        data: images, as `pretrain` takes them; the plan is the same for all.
        gpus: that share the work.
        gpu_memory: of each, in GB; the fastest settings that fit are then proposed. Without it the settings stand.
        tflops: peak of a GPU in the precision of the run; without it this machine's matrix product is measured.
        mfu: share of the peak that training reaches.
        layout: also print which rows of every tensor a GPU holds when all are sharded.
        settings: in Python, settings by dotted key.
        named: in Python, settings without a dot.
        out: file that receives all numbers as JSON.
    """
    _check(gpus, gpu_memory, tflops, mfu)
    if out is not None:
        check_result(Path(out), json=True)
    source = {"experiment.data.source": data} if data else {}
    config = with_settings(recipes.find(recipe), {**settings, **named, **source})
    peak, bf16 = (tflops * 1e12, config.experiment.precision != "fp32") if tflops else planning.here(config.experiment)
    room = None if gpu_memory is None else gpu_memory * 1e9
    found = {}
    for stage in config.experiment.all_stages:
        one = planning.plan(stage.experiment, config.runtime, ranks=gpus, room=room, rate=peak * mfu, bf16=bf16)
        _print(one, stage=stage.name, layout=cost.networks(stage.experiment) if layout else None)
        found[stage.name] = one
    hours = sum(each.hours for each in found.values())
    if len(found) > 1:
        info(f"all stages: {hours:,.1f} h on {gpus:,} GPUs")
    info(f"next: dinokit pretrain {recipe} --data {data or 'FOLDER'} --out runs/NAME {found['pretrain'].settings}")
    if out is not None:
        stages = {name: asdict(each) | {"peak": each.peak, "hours": each.hours} for name, each in found.items()}
        write_json(Path(out), {"stages": stages, "hours": hours})
    return found


def _check(gpus: int, gpu_memory: float | None, tflops: float | None, mfu: float) -> None:
    if (
        gpus < 1
        or not 0 < mfu <= 1
        or not all(0 < each < math.inf for each in (gpu_memory, tflops) if each is not None)
    ):
        raise UserError(
            f"gpus, gpu_memory and tflops must be positive and mfu in (0, 1], got {gpus}, {gpu_memory}, {tflops}, {mfu}"
        )


def _print(plan: planning.Plan, *, stage: str, layout: Mapping[str, nn.Module] | None) -> None:
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


def held(shape: tuple[int, ...], rank: int, *, ranks: int) -> int:
    """Return how many numbers of a tensor a rank holds when it is sharded: rows as torch.chunk cuts the first axis."""
    rows = -(-shape[0] // ranks)
    return min(rows, max(shape[0] - rank * rows, 0)) * math.prod(shape[1:])


def _table(title: str, rows: Iterable[tuple[str, float]], *, unit: str, scale: float) -> Table:
    rows = list(rows)
    table = Table(title, unit, box=None)
    table.columns[1].justify = "right"
    for name, value in rows:
        table.add_row(name, f"{value / scale:,.2f}")
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


def explained(words: Sequence[str]) -> tuple[str, Any]:
    """Return the recipe that help is about, by default the demo, and its settings."""
    recipe = words[0] if words else "demo"
    return recipe, recipes.find(recipe)
