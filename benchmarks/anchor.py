"""Does Gram anchoring repair a small run, and does `auto` choose its anchor well?

    python benchmarks/scenes.py FETCHED SCENES
    python benchmarks/anchor.py SCENES OUT [--seeds 0 1 2] [--jobs 2] [--settings optim.lr.peak=4e-3 ...]

For every seed the pretraining of `small-cpu`, then its anchor stage three times from the same state: without Gram, with
the anchor that `auto` chooses, and with the last teacher. Every checkpoint is measured: dense by the mIoU of patches
that vote (k-NN segmentation, unseen objects on unseen backgrounds), global by k-NN of the CLS (seen objects on unseen
backgrounds; unseen objects by leave-one-out), and by the label-free signs. A checkpoint that is there is not made
again. OUT/results.jsonl holds a line per checkpoint, OUT/figure.html the curves.
"""

import argparse
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from dinokit.checkpoints.load import load
from dinokit.checkpoints.store import RunFolder
from dinokit.config import override
from dinokit.evaluation import base as evaluations
from dinokit.evaluation import knn, segmentation
from dinokit.health import vitals
from dinokit.health.probe import look, mirrored, open_probe
from dinokit.health.vitals import places
from dinokit.images.intensity import Pixels
from dinokit.recipes import find
from dinokit.run import engine
from dinokit.run.anchoring import CLOSE
from dinokit.sources.source import open_source
from dinokit.training.config import TrainConfig
from dinokit.visuals.chart import Series, line_chart
from dinokit.visuals.page import Section, document

TITLE = "Gram anchoring of a small run"
ARMS = ("none", "auto", "last")
HALVES = ("experiment", "runtime")
NO_GRAM = {"objectives.gram": None, "anchor": None, "data.views.anchor_size": 0}
ANCHOR = {"none": NO_GRAM, "auto": {}, "last": {"anchor.source": "start"}}
QUALITY = {
    "miou": "k-NN segmentation, mIoU",
    "moved": "k-NN, seen objects on new backgrounds",
    "unseen": "k-NN, unseen objects",
}
SIGNS = ("locality", "same_place", "cls_patch", "rank_patches")


def main() -> None:
    """Train, measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--settings", nargs="*", default=[], metavar="KEY=VALUE", help="of the pretraining")
    args = parser.parse_args()
    settings = {key: json.loads(value) for key, _, value in (each.partition("=") for each in args.settings)}
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(seed_of, args.scenes, args.out / f"seed{seed}", seed, settings) for seed in args.seeds]
        lines = [line for job in jobs for line in job.result()]
    (args.out / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    print(table(lines))
    print(correlations(lines))
    (args.out / "figure.html").write_text(figure(lines))


def seed_of(scenes: Path, out: Path, seed: int, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Train and measure one seed."""
    torch.set_num_threads(1)
    common = {"seed": seed, "data.source": str(scenes / "unlabelled"), "processes": 1, "eval.tasks": None, "workers": 0}
    recipe = override(find("small-cpu"), common, hidden=HALVES)
    base = override(
        recipe, {"stages": {}, **settings, "checkpoint_every": recipe.experiment.steps // 10}, hidden=HALVES
    )
    engine.pretrain(base, out / "base")
    lines = measured(scenes, out / "base", seed=seed, arm="base", first=0)
    for arm in ARMS:
        engine.pretrain(continued(recipe, out / "base", arm, settings), out / arm)
        lines += measured(scenes, out / arm, seed=seed, arm=arm, first=base.experiment.steps)
    return lines


def continued(recipe: TrainConfig, base: Path, arm: str, settings: Mapping[str, Any]) -> TrainConfig:
    """Return the anchor stage of the recipe, from the end of the base."""
    lasting = {key: value for key, value in settings.items() if not key.startswith(("steps", "optim.lr", "momentum"))}
    stage = override(recipe, lasting, hidden=HALVES).experiment.alone("anchor", start=str(base))
    alone = replace(recipe, experiment=stage)
    return override(alone, {**ANCHOR[arm], "checkpoint_every": stage.steps // 2}, hidden=HALVES)


def measured(scenes: Path, run: Path, *, seed: int, arm: str, first: int) -> list[dict[str, Any]]:
    """Measure every checkpoint of a run."""
    lines = []
    for step in RunFolder(run).steps():
        if arm != "base" and step == 0:  # the end of the base
            continue
        file = run / f"quality_{step}.json"
        if not file.exists():
            file.write_text(json.dumps(quality(scenes, RunFolder(run).checkpoint(step))))
        lines.append({"seed": seed, "arm": arm, "step": first + step, **json.loads(file.read_text())})
    return lines


def quality(scenes: Path, checkpoint: Path) -> dict[str, float]:
    """Return dense and global quality, and what the label-free signs say."""
    backbone = load(checkpoint)
    dense = segmentation.Config(data=str(scenes / "scenes"), protocol="knn", size=128, bank=20_000)
    moved = knn.Config(data=str(scenes / "objects"), gallery="train", query="test", k=(10,))
    unseen = knn.Config(data=str(scenes / "objects"), gallery="val", query="val", k=(5,))
    found = {
        "miou": evaluations.measure("segmentation", backbone, dense)["mIoU"],
        "moved": evaluations.measure("knn", backbone, moved)["top1@10"],
        "unseen": evaluations.measure("knn", backbone, unseen)["top1@5"],
    }
    source = open_source(str(scenes / "unlabelled"), channels=3, split=None)
    probe = open_probe(source, Pixels(), side=64, patch_size=8, images=128, seed=0)
    assert probe is not None
    cpu = torch.device("cpu")
    own, mirror = look(backbone, probe.batches(cpu)), look(backbone, mirrored(probe.batches(cpu)))
    patches = vitals.some_patches(own.features.patches)
    return found | places(own, mirror) | {"rank_patches": vitals.effective_rank(patches)}


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return the quality at the end of the base and of each arm, mean and all seeds."""
    rows = ["arm | " + " | ".join(QUALITY.values())]
    for arm in ("base", *ARMS):
        ours = [line for line in lines if line["arm"] == arm]
        ends = [line for line in ours if line["step"] == max(each["step"] for each in ours)]
        cells = [[line[name] for line in ends] for name in QUALITY]
        rows.append(
            f"{arm} | " + " | ".join(f"{statistics.mean(c):.2f} ({', '.join(f'{v:.1f}' for v in c)})" for c in cells)
        )
    return "\n".join(rows)


def correlations(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return how each sign ranks the checkpoints of the pretraining by mIoU, and what a choice by it costs."""
    rows = ["sign | rank correlation with mIoU by seed | mIoU lost by choosing with it"]
    for sign in SIGNS:
        found, lost = [], []
        for seed in sorted({line["seed"] for line in lines}):
            ours = [line for line in lines if line["seed"] == seed and line["arm"] == "base" and line["step"] > 0]
            found.append(statistics.correlation(*([ranked(o[name] for o in ours) for name in (sign, "miou")])))
            most = max(o[sign] for o in ours)
            chosen = next(o for o in ours if o[sign] >= (1 - CLOSE) * most)  # as `auto`
            lost.append(max(o["miou"] for o in ours) - chosen["miou"])
        rows.append(f"{sign} | {', '.join(f'{v:.2f}' for v in found)} | {', '.join(f'{v:.2f}' for v in lost)}")
    return "\n".join(rows)


def ranked(values: Iterable[float]) -> list[float]:
    """Return the place of each value in their order."""
    known = list(values)
    return [float(sum(other < value for other in known)) for value in known]


def figure(lines: Sequence[Mapping[str, Any]]) -> str:
    """Draw the mean over seeds of each measure by step."""
    charts = []
    for name, title in {**QUALITY, "locality": "locality of patches (no labels)"}.items():
        series = []
        for colour, arm in enumerate(("base", *ARMS)):
            steps = sorted({line["step"] for line in lines if line["arm"] == arm})
            means = [
                statistics.mean(line[name] for line in lines if line["arm"] == arm and line["step"] == step)
                for step in steps
            ]
            series.append(Series(arm, steps, means, colour, marks=True))
        charts.append(line_chart(series, title=title))
    body = f'<div class="charts">{"".join(charts)}</div>'
    return document(title=TITLE, header=f"<h1>{TITLE}</h1>", sections=(Section("Curves", "Means over seeds", body),))


if __name__ == "__main__":
    main()
