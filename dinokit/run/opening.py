"""What a run says of itself before its first step: on the terminal, and in environment.json."""

import json
import platform
import sys
import time
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from dinokit.checkpoints.store import Clock, RunFolder
from dinokit.core import device as devices
from dinokit.core import dist
from dinokit.core.files import write_json
from dinokit.core.log import info, warn
from dinokit.run import ranks
from dinokit.sources.source import Source
from dinokit.training.config import Experiment, TrainConfig
from dinokit.training.stages import FIRST
from dinokit.training.step import Trainer
from dinokit.views.multicrop import Config as ViewsConfig


def say_timeline(experiment: Experiment) -> None:
    """Say what happens when, if there is more than one stage."""
    legs = experiment.legs()
    if len(legs) == 1:
        return
    for leg in legs:
        sizes = ", ".join(_sizes(each) for each in leg.experiment.data.views.variants())
        origin = {None: "random weights", "continue": "goes on", "teacher": "from the teacher"}[leg.begin]
        if leg.begin is None and leg.experiment.start is not None:
            origin = f"from {leg.experiment.start.source}"
        info(
            f"steps {leg.first:,} to {leg.last:,} · {leg.name}: {origin} · crops {sizes} px · "
            f"batch {leg.experiment.data.batch_size} · {', '.join(leg.experiment.objectives)}"
        )


def _sizes(views: ViewsConfig) -> str:
    sides = [views.global_size, *([views.local_size] if views.local_count else [])]
    return "/".join(map(str, [*sides, *([views.anchor_size] if views.anchor_size else [])]))


def say_what_runs(
    config: TrainConfig, source: Source, trainer: Trainer, clock: Clock, *, stage: str, until: int
) -> None:
    experiment = config.experiment
    weights = sum(parameter.numel() for parameter in trainer.backbone.student.parameters())
    _warn_of_other_lengths(experiment, stage=stage)
    if config.runtime.sharding != "none" and not trainer.sharded:
        warn("runtime.sharding has no effect in a single process: it holds everything")
    if config.runtime.groups and trainer.team is None:
        warn("runtime.groups has no effect in a single process: it trains all students")
    bf16 = devices.uses_bf16(trainer.device, experiment.precision)
    info(
        f"{experiment.recipe}: {weights / 1e6:.2f} M weights · {len(source):,} images of {source.name} · "
        f"batch {experiment.data.batch_size} · steps {clock.step} to {until} · "
        f"{trainer.device} {'bf16' if bf16 else 'fp32'}{ranks.described(config.runtime)}"
        f"{', sharded' if trainer.sharded else ''}"
        f"{f' in {trainer.team.count} groups' if trainer.team is not None else ''}"
    )


def _warn_of_other_lengths(experiment: Experiment, *, stage: str) -> None:
    """Say which schedules do not end with the run: the counts of steps that were given do not add up to it."""
    schedules = {
        "optim.lr": experiment.optim.lr,
        "optim.weight_decay": experiment.optim.weight_decay,
        "momentum": experiment.momentum,
    }
    for name, schedule in schedules.items():
        falls = schedule.shape != "constant" and schedule.end <= schedule.peak
        if not falls or schedule.length == experiment.steps:
            continue
        where = "the run" if stage == FIRST else f"stage {stage}"
        warn(f"{name} takes {schedule.length} steps (freeze, warmup, hold and decay), {where} has {experiment.steps}")


def record_start(run: RunFolder, device: torch.device, source: Source) -> None:
    """Write environment.json, earlier starts included; warn if the run had other images at the last one."""
    now = environment(device, source)
    starts: list[dict[str, Any]] = []
    with suppress(OSError, ValueError):  # absent or damaged: nothing to compare with
        before = json.loads(run.environment.read_text(encoding="utf-8"))
        if not isinstance(before, dict):
            raise ValueError
        starts = [*before.pop("earlier", []), before]
        if before.get("source", now["source"]) != now["source"]:
            warn(
                f"{source.name} has other images than at the last start ({before.get('images')} then, {now['images']} "
                "now), or lists them in another order; the run continues with these, in an order of their own"
            )
    write_json(run.environment, now | {"earlier": starts})


def environment(device: torch.device, source: Source) -> dict[str, str | int]:
    """Return what a reader needs to know to repeat the run: images, machine, versions, command."""
    packages = {name: version(name) for name in ("torch", "numpy", "pillow")}
    return {
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "device": str(device),
        "processor": _processor(),
        "cores": devices.cores(),
        "ranks": dist.world_size(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "python": platform.python_version(),
        **packages,
        "images": len(source),
        "source": source.fingerprint,
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
