"""`dinokit plan`: predict what a run takes, and what settings fit the machines"""

from collections.abc import Sequence
from dataclasses import asdict
from math import inf
from pathlib import Path
from typing import Any

from dinokit import recipes
from dinokit.config import NO_SETTINGS, Settings
from dinokit.core.files import check_result, write_json
from dinokit.core.messages import UserError, info
from dinokit.planning import plan as planning
from dinokit.planning.show import print_plan
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
        check_result(Path(out))
    source = {"experiment.data.source": data} if data else {}
    config = with_settings(recipes.find(recipe), {**settings, **named, **source})
    peak, bf16 = (tflops * 1e12, config.experiment.precision != "fp32") if tflops else planning.here(config.experiment)
    room = None if gpu_memory is None else gpu_memory * 1e9
    found = {}
    for stage in config.experiment.all_stages:
        one = planning.plan(stage.experiment, config.runtime, ranks=gpus, room=room, rate=peak * mfu, bf16=bf16)
        print_plan(one, stage=stage.name, layout=planning.networks(stage.experiment) if layout else None)
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
    if gpus < 1 or not 0 < mfu <= 1 or not all(0 < each < inf for each in (gpu_memory, tflops) if each is not None):
        raise UserError(
            f"gpus, gpu_memory and tflops must be positive and mfu in (0, 1], got {gpus}, {gpu_memory}, {tflops}, {mfu}"
        )


def explained(words: Sequence[str]) -> tuple[str, Any]:
    """Return the recipe that help is about, by default the demo, and its settings."""
    recipe = words[0] if words else "demo"
    return recipe, recipes.find(recipe)
