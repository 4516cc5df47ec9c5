"""The verbs of the front door: what `dinokit VERB` and `dinokit.verb()` both run.

The long ones have a module each (pretraining, distilling, measuring, predicting, listing); the short ones are here.
"""

import io
import textwrap
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import asdict
from math import inf
from pathlib import Path
from typing import Any, Literal

import tyro

from dinokit import config as configuration
from dinokit import recipes
from dinokit.checkpoints import convert as conversion
from dinokit.checkpoints.store import RunFolder
from dinokit.config import NO_SETTINGS, Settings, parse_overrides
from dinokit.core import device as devices
from dinokit.core.errors import UserError
from dinokit.core.files import check_result, write_json
from dinokit.core.log import info, progress
from dinokit.data.check import Check, check
from dinokit.data.source import open_source
from dinokit.data.stats import Stats, stats
from dinokit.distilling import distill
from dinokit.embedding import Embeddings
from dinokit.embedding import embed as embed_source
from dinokit.evaluation import base as evaluations
from dinokit.listing import list_models, models
from dinokit.measuring import evaluate
from dinokit.planning import plan as planning
from dinokit.planning.show import print_plan
from dinokit.predicting import predict
from dinokit.pretraining import pretrain
from dinokit.tables import print_check, print_replay, print_stats
from dinokit.training.config import HALVES
from dinokit.training.replay import Replay
from dinokit.training.replay import replay as replayed
from dinokit.visuals.report import write_report

__all__ = [
    "convert",
    "data",
    "distill",
    "embed",
    "evaluate",
    "help_text",
    "list_models",
    "models",
    "parse_overrides",
    "plan",
    "predict",
    "pretrain",
    "replay",
    "report",
]


def embed(
    *, model: str, data: str, out: Path, device: str = "auto", precision: devices.Precision = "auto"
) -> Embeddings:
    """Write the features of every image of a source: OUT/embeddings.npy, one row per line of OUT/manifest.jsonl.

    Args:
        model: a run folder, RUN/checkpoints/STEP, a weights file, a name that `dinokit models` lists; or a peer:
            timm/NAME, hf/NAME, open_clip/NAME.
        data: a folder of images, a demo: name, or anything else that `pretrain` takes.
        out: the folder to write.
        device: auto, cpu, cuda or mps.
        precision: fp32, bf16, or auto: bf16 where the hardware multiplies it natively; its agreement is then said.
    """
    found = embed_source(model, data, out, device=devices.choose(device), precision=precision)
    info(f"{len(found.cls):,} images · {found.cls.shape[1]} numbers each · {len(found.bad)} unreadable · {out}")
    return found


def convert(
    source: tyro.conf.Positional[Path], out: tyro.conf.Positional[Path], *, to: str, exact_periods: bool = False
) -> None:
    """Write a model in another layout; nothing is written unless it reads back bit by bit.

    Args:
        source: a run folder, RUN/checkpoints/STEP, a weights file, a folder with model.safetensors and config.json, or
            a name that `dinokit models` lists.
        out: NAME.pth for official, NAME.safetensors for dinokit, a folder for hf and timm; must not exist.
        to: official, hf (transformers), timm or dinokit.
        exact_periods: compute DINOv3's RoPE periods anew; official files store them rounded to bfloat16.
    """
    left = conversion.convert(Path(source), Path(out), to=to, exact_periods=exact_periods)
    if left:
        info(f"{to} has no place for {', '.join(left)}, which only training uses")
    info(f"{to} weights {out}")


def report(run: tyro.conf.Positional[Path]) -> None:
    """Write RUN/report.html: what ran, the curves, the numbers beside their baselines, and what the features see.

    Args:
        run: the run's folder.
    """
    info(f"report {write_report(Path(run))}")


def plan(
    recipe: tyro.conf.Positional[str],
    *,
    gpus: int = 1,
    gpu_memory: float | None = None,
    tflops: float | None = None,
    mfu: float = planning.MFU,
    layout: bool = False,
    out: Path | None = None,
    settings: Settings = NO_SETTINGS,
) -> dict[str, planning.Plan]:
    """Predict parameters, operations, memory, messages and hours of every stage, and what settings fit the machines.

    Any setting of the recipe can be changed as in `dinokit pretrain`.

    Args:
        recipe: a recipe's name or the config.yaml of a run.
        gpus: that share the work.
        gpu_memory: of each, in GB; the fastest settings that fit are then proposed. Without it the settings stand.
        tflops: peak of a GPU in the precision of the run; without it this machine's matrix product is measured.
        mfu: share of the peak that training reaches.
        layout: also print which rows of every tensor a GPU holds when all are sharded.
        out: file that receives all numbers as JSON.
    """
    if gpus < 1 or not 0 < mfu <= 1 or not all(0 < each < inf for each in (gpu_memory, tflops) if each is not None):
        raise UserError(
            f"gpus, gpu_memory and tflops must be positive and mfu in (0, 1], got {gpus}, {gpu_memory}, {tflops}, {mfu}"
        )
    if out is not None:
        check_result(Path(out))
    config = configuration.override(recipes.find(recipe), settings, hidden=HALVES)
    peak, bf16 = (tflops * 1e12, config.experiment.precision != "fp32") if tflops else planning.here(config.experiment)
    room = None if gpu_memory is None else gpu_memory * 1e9
    found = {}
    for leg in config.experiment.legs():
        found[leg.name] = planning.plan(
            leg.experiment, config.runtime, ranks=gpus, room=room, rate=peak * mfu, bf16=bf16
        )
        print_plan(found[leg.name], stage=leg.name, layout=planning.networks(leg.experiment) if layout else None)
    hours = sum(each.hours for each in found.values())
    if len(found) > 1:
        info(f"all stages: {hours:,.1f} h on {gpus:,} GPUs")
    if out is not None:
        stages = {name: asdict(each) | {"peak": each.peak, "hours": each.hours} for name, each in found.items()}
        write_json(Path(out), {"stages": stages, "hours": hours})
    return found


def replay(
    run: tyro.conf.Positional[Path],
    step: tyro.conf.Positional[int],
    *,
    device: str = "auto",
    out: Path | None = None,
) -> Replay:
    """Take one step of a run again, in memory, and look into it: losses, gradients, crops, the first odd number.

    Args:
        run: the run's folder; it is only read.
        step: as in metrics.jsonl and bad_steps.jsonl.
        device: auto, cpu, cuda or mps.
        out: file that receives all of it as JSON.
    """
    folder = RunFolder(Path(run))
    if not folder.config.is_file():
        raise UserError(f"{run} holds no run (no config.yaml); give the folder that pretrain --out wrote")
    if out is not None:
        check_result(Path(out))
    found = replayed(folder, recipes.find(str(folder.config)), step, device=device)
    print_replay(found)
    if out is not None:
        write_json(Path(out), asdict(found))
    return found


def data(
    verb: tyro.conf.Positional[Literal["check", "stats"]],
    source: tyro.conf.Positional[str],
    *,
    split: str | None = None,
    channels: int | None = None,
    limit: int | None = None,
    workers: int | None = None,
    out: Path | None = None,
) -> None:
    """Look at a source before training.

    check: how many images, which formats, sizes and channels, exact duplicates, what cannot be read and why, the time
    of a pass. stats: mean and standard deviation of every channel, as the settings of `dinokit pretrain`.

    Args:
        verb: check or stats.
        source: a folder of images or a demo: name.
        split: one split of the source; train, or everything, if not given.
        channels: of the model; if not given, check takes each image as it is, stats takes 3.
        limit: look at so many images, evenly spaced.
        workers: threads; one per core if not given.
        out: file that receives everything as JSON.
    """
    if min(number for number in (channels, limit, workers, 1) if number is not None) < 1:
        raise UserError("channels, limit and workers must be at least 1")
    if out is not None:
        check_result(Path(out))
    opened = open_source(source, split=split, channels=channels or 3)
    threads = workers or devices.cores()
    found: Check | Stats
    if verb == "check":
        found = check(opened, channels=channels, limit=limit, workers=threads, shown=progress)
        print_check(found)
    else:
        found = stats(opened, limit=limit, workers=threads, shown=progress)
        print_stats(found)
    if out is not None:
        write_json(Path(out), {"source": source, **asdict(found)})


def help_text(name: str, words: list[str]) -> str:
    """Return what a command takes; for `pretrain` and `evaluate TASK` with every setting, its default and its meaning.

    Raises:
        UserError: if there is no such recipe or task.
    """
    captured = io.StringIO()
    with redirect_stdout(captured), suppress(SystemExit):
        tyro.cli(globals()[name], prog=f"dinokit {name}", args=["--help"])
    first = words[0] if words and not words[0].startswith("-") else ""
    if name == "pretrain":
        recipe = first or "demo"
        return captured.getvalue() + _settings(recipe, recipes.find(recipe), hidden=HALVES)
    if name == "predict":
        return captured.getvalue() + _settings("foreground", evaluations.find("foreground").Config(data="DATA"))
    if name == "evaluate" and first:
        return captured.getvalue() + _settings(first, evaluations.find(first).Config(data="DATA"))
    return captured.getvalue()


def _settings(name: str, config: Any, *, hidden: Sequence[str] = ()) -> str:
    lines = [f"\nsettings of '{name}': --KEY VALUE, lists as '[0.4, 1.0]', nothing as null\n"]
    for setting in configuration.explained(config, hidden=hidden):
        if setting.path == "data":  # an argument of the command itself
            continue
        choices = f"{' | '.join(setting.choices)}; " if setting.choices else ""
        text = f"{choices}{setting.meaning} (default: {setting.value})"
        start = f"  --{setting.path} "
        lines.append(textwrap.fill(f"{start:<42}{text}", width=120, subsequent_indent=" " * 42))
    return "\n".join(lines)
