"""The verbs of the front door: what `dinokit VERB` and `dinokit.verb()` both run.

Here the layers meet: the engine trains and hands over a checkpoint's path; this module decides that it is measured and
that the report is written at the end.
"""

import io
import textwrap
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import asdict, replace
from json import dumps
from math import inf
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from dinokit import config as configuration
from dinokit import recipes
from dinokit.checkpoints import convert as conversion
from dinokit.checkpoints.hub import RELEASES
from dinokit.checkpoints.load import load
from dinokit.checkpoints.store import RunFolder
from dinokit.config import NO_SETTINGS, Settings, parse_overrides
from dinokit.core import device as devices
from dinokit.core import dist
from dinokit.core import slurm as srun
from dinokit.core.errors import UserError
from dinokit.core.files import check_writable, write_json
from dinokit.core.log import console, info, progress
from dinokit.data.check import Check, check
from dinokit.data.source import Source, absolute, is_gray, open_source
from dinokit.data.stats import Stats, stats
from dinokit.distilling import distill
from dinokit.embedding import Embeddings
from dinokit.embedding import embed as embed_source
from dinokit.evaluation import base as evaluations
from dinokit.models.architecture import kind
from dinokit.models.variants import ARCHITECTURES
from dinokit.planning import plan as planning
from dinokit.planning.show import print_plan
from dinokit.predicting import predict
from dinokit.running import trained
from dinokit.tables import print_check, print_replay, print_stats, print_table
from dinokit.training import job
from dinokit.training.config import HALVES, TrainConfig
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


def pretrain(
    recipe: tyro.conf.Positional[str],
    *,
    data: str = "",
    out: Path,
    from_: Annotated[str, tyro.conf.arg(name="from")] = "",
    stage: str = "",
    slurm: Path | None = None,
    nodes: int = 1,
    gpus_per_node: int = 8,
    settings: Settings = NO_SETTINGS,
) -> int:
    """Train a backbone on a folder of images, or continue the run that is in OUT.

    Any setting of the recipe can be changed by its dotted key: --optim.lr.peak 1e-3 --data.batch_size 64.

    Args:
        recipe: a recipe's name (see `dinokit models`) or the config.yaml of another run.
        data: a folder of images, nested as you like; a pattern 'photos/**/*.jpg', a list .txt, a manifest .csv .jsonl
            .parquet, shards .tar, a .zip, hf:NAME, s3:// or https://, a mixture .yaml; or demo:fashion,
            demo:fashion-placed, demo:emoji. The demo recipe trains a network of one channel if the images are gray.
        out: the run's folder; the same command again continues it.
        from_: weights to begin with: another run, RUN/checkpoints/STEP, a model's file or name.
        stage: train this stage of the recipe alone, on the weights of --from.
        slurm: do not train, but write the script of a SLURM job that does; start it by sbatch.
        nodes: of that job.
        gpus_per_node: of that job; each is one rank.
    """
    srun.adopt()
    console.quiet = not dist.is_main()  # known only now
    config = configuration.override(recipes.find(recipe), settings, hidden=HALVES)
    if data:
        config = configuration.override(config, {"experiment.data.source": data}, hidden=HALVES)
    weights = str(Path(from_).absolute()) if from_ and Path(from_).exists() else from_
    if weights or stage:
        config = replace(config, experiment=config.experiment.alone(stage, start=weights))
    if not config.experiment.data.source:
        raise UserError("no images are given; add --data FOLDER or --data demo:fashion")
    # the run, its checkpoints and its report are looked at from other folders too
    place = absolute(config.experiment.data.source)
    config = configuration.override(config, {"experiment.data.source": place}, hidden=HALVES)
    source = open_source(place)
    if recipe in recipes.names() and not any(key.endswith("backbone.channels") for key in settings):
        config = _with_natural_channels(config, source)
    run = RunFolder(Path(out))
    if slurm is None and (nodes, gpus_per_node) != (1, 8):
        raise UserError("--nodes and --gpus-per-node describe a job; name its script with --slurm FILE")
    if slurm is not None:
        chosen = recipe if recipe in recipes.names() else str(Path(recipe).absolute())
        job.write(
            Path(slurm),
            ["pretrain", chosen, "--data", place, "--out", str(run.path.absolute()), *_beginning(weights, stage)],
            config,
            settings,
            nodes=nodes,
            gpus_per_node=gpus_per_node,
        )
        return 0
    return trained(config, source, run)


def evaluate(
    task: tyro.conf.Positional[str],
    *,
    model: str,
    data: str,
    out: Path | None = None,
    save: Path | None = None,
    baselines: bool = True,
    device: str = "auto",
    settings: Settings = NO_SETTINGS,
) -> dict[str, dict[str, float]]:
    """Measure frozen features, with the untrained architecture and the raw pixels beside them.

    Args:
        task: knn or retrieval; segmentation, foreground, tracking or matching, which look at patches.
        model: a run folder, RUN/checkpoints/STEP, a weights file, a name that `dinokit models` lists; or a peer:
            timm/NAME, hf/NAME, open_clip/NAME.
        data: a folder with one folder per class, with train/ and val/ or test/ above them, a demo: name, or anything
            with labels that `pretrain` takes. segmentation: train/ and val/, each with images/ and masks/, or ADE20K,
            Cityscapes, Pascal VOC. foreground: images/ and masks/, or PNGs with an alpha channel. tracking: DAVIS 2017,
            YouTube-VOS, MOSE; or a folder of frames or a video file with --mask, a PNG of its first frame. matching:
            SPair-71k, NAVI, or a list of pairs with points (pairs.jsonl or .csv, see data/keypoints.py).
        out: file that receives the numbers as JSON.
        save: folder that receives the model's own numbers in full and the head that was trained, or the masks and
            overlays of every frame; the same command again continues an interrupted training or tracking.
        baselines: also measure random-init and raw-pixels.
        device: auto, cpu, cuda or mps.
    """
    module = evaluations.find(task)
    config = configuration.override(module.Config(data=data), settings)
    backbone = load(model).to(devices.choose(device))
    backbone.name = absolute(model)
    if out is not None:
        _check_file(Path(out))
    if save is not None:
        check_writable(Path(save))
    rivals = evaluations.baselines(backbone, dense=task in evaluations.DENSE) if baselines else {}
    rows = {str(model): module.run(backbone, config, None if save is None else Path(save))}
    rows |= {name: module.run(rival.to(devices.choose(device)), config) for name, rival in rivals.items()}
    print_table(f"{task} on {data}", rows)
    if out is not None:
        write_json(Path(out), {"task": task, "config": configuration.to_plain(config), "results": rows})
    return rows


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
        _check_file(Path(out))
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
        _check_file(Path(out))
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
        _check_file(Path(out))
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


def models(*, json: bool = False) -> None:
    """List architectures, published weights with their licences, and recipes.

    Args:
        json: print JSON.
    """
    if json:
        weights = {
            name: {"architecture": r.architecture, "licence": r.licence, "repository": r.repository}
            for name, r in RELEASES.items()
        }
        listed = {"architectures": [*ARCHITECTURES], "weights": weights, "recipes": recipes.names()}
        print(dumps(listed, indent=2))
        return
    columns = ("architecture", "kind", "patch", "dim", "depth", "heads", "registers", "positions")
    table = Table(*columns, box=None, pad_edge=False, collapse_padding=True)  # whole names in 80 columns
    for name, c in ARCHITECTURES.items():
        own = [getattr(c, setting, "-") for setting in ("heads", "registers", "position")]  # of transformers
        table.add_row(name, kind(c), *map(str, (c.patch_size, c.dim, c.depth, *own)))
    Console().print(table)
    print()
    table = Table("published weights", "architecture", "licence", box=None, pad_edge=False)
    for name, release in RELEASES.items():
        table.add_row(name, release.architecture, release.licence)
    Console().print(table)
    print(f"\nrecipes: {', '.join(recipes.names())}")


def list_models(pattern: str = "") -> list[str]:
    """Return the names of all architectures and of all published weights that contain the pattern."""
    return [name for name in (*ARCHITECTURES, *RELEASES) if pattern in name]


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


def _with_natural_channels(config: TrainConfig, source: Source) -> TrainConfig:
    """Give gray images a network of one channel, where the recipe's normalisation fits any number of channels."""
    if len(config.experiment.data.pixels.mean) > 1 or not is_gray(source):
        return config
    return configuration.override(config, {"experiment.backbone.channels": 1}, hidden=HALVES)


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


def _beginning(weights: str, stage: str) -> list[str]:
    given = {"--from": weights, "--stage": stage}
    return [word for option, value in given.items() if value for word in (option, value)]


def _check_file(out: Path) -> None:
    if out.is_dir():
        raise UserError(f"{out} is a folder; --out takes a file such as {out / 'result.json'}")
    check_writable(out.parent)
