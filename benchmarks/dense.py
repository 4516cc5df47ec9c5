"""Whose frozen patches are better? Segmentation, depth, tracking and matching of small models trained here.

    python benchmarks/scenes.py FETCHED SCENES
    python benchmarks/carphone.py FETCHED VIDEO
    python benchmarks/dense.py SCENES VIDEO OUT [--seeds 0 1 2] [--jobs 2]

Backbones: the pixels of a patch; the untrained network; the same network trained by DINO (its loss of the CLS alone,
centred), DINOv2 (with iBOT, KoLeo and Sinkhorn-Knopp) and DINOv3 (that, and in the last quarter the Gram stage with the
anchor that `auto` chooses). All have the network, crops, batch, rate and number of steps of `small-cpu`; the last
quarter is a stage of its own for all. Objects and backgrounds of the measurements were not trained on.

What is there is not made again. OUT/results.jsonl holds a line per model.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from anchor import HALVES, continued

from dinokit.checkpoints.load import load
from dinokit.config import override
from dinokit.evaluation import base, depth, matching, segmentation, tracking
from dinokit.models.features import Backbone
from dinokit.recipes import find
from dinokit.run import engine

IMAGE_ALONE = {
    "objectives.ibot": None,
    "objectives.koleo": None,
    "data.masks": None,
    "objectives.dino.targets": "centring",
}
ARMS: Mapping[str, tuple[str, str]] = {  # which pretraining, and how it goes on (anchor.ARMS)
    "DINO": ("image", "none"),
    "DINOv2": ("patches", "none"),
    "DINOv3": ("patches", "auto"),
}
SETTINGS: Mapping[str, Mapping[str, Any]] = {"image": IMAGE_ALONE, "patches": {}}
BEHIND = 12.0  # metres; the backgrounds, at 10, count
COLUMNS = {
    "things": "linear, object or background, mIoU",
    "linear": "linear, 11 classes, mIoU",
    "knn": "k-NN mIoU",
    "depth": "depth RMSE",
    "clips": "clips J&F",
    "video": "video J&F",
    "pck": "PCK@0.1",
    "pck_fine": "PCK@0.05",
}


def main() -> None:
    """Train, measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", type=Path)
    parser.add_argument("video", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        jobs = [
            pool.submit(seed_of, args.scenes, args.video, args.out / f"seed{seed}", seed, which)
            for seed in args.seeds
            for which in SETTINGS
        ]
        lines = [line for job in jobs for line in job.result()]
    (args.out / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    print(table(lines))


def seed_of(scenes: Path, video: Path, out: Path, seed: int, which: str) -> list[dict[str, Any]]:
    """Train one pretraining with all that goes on from it, and measure."""
    torch.set_num_threads(1)
    lines = []
    for name, build in models(scenes, out, seed, which).items():
        file = out / f"{name}.json"
        if not file.exists():
            file.write_text(json.dumps(quality(scenes, video, build())))
        lines.append({"seed": seed, "model": name} | json.loads(file.read_text()))
    return lines


def models(scenes: Path, out: Path, seed: int, which: str, **changes: Any) -> dict[str, Callable[[], Backbone]]:
    """Train one pretraining with all that goes on from it; return what loads each, after DINO's also its baselines."""
    common = {"seed": seed, "data.source": str(scenes / "unlabelled"), "processes": 1, "eval.tasks": None, "workers": 0}
    recipe = override(find("small-cpu"), common | changes, hidden=HALVES)
    begin = override(recipe, {"stages": {}, **SETTINGS[which]}, hidden=HALVES)
    engine.pretrain(begin, out / which)
    found: dict[str, Callable[[], Backbone]] = {}
    for name, (first, arm) in ARMS.items():
        if first == which:
            run = out / name
            engine.pretrain(continued(recipe, out / which, arm, SETTINGS[which]), run)
            found[name] = lambda run=run: load(run)
    if which == "image":
        rivals = base.baselines(load(out / which), seed=seed, dense=True)
        found |= {"untrained": lambda: rivals["random-init"]}
        if seed == 0:  # pixels have none
            found |= {"pixels": lambda: rivals["raw-pixels"]}
    return found


def quality(scenes: Path, video: Path, backbone: Backbone) -> dict[str, float]:
    """Return all numbers of a frozen model."""
    pairs, clips = str(scenes / "scenes"), str(scenes / "clips")
    short = {"iterations": 300, "warmup": 30, "batch_size": 8, "lr": (3e-3, 1e-2, 3e-2)}
    linear = segmentation.Config(data=pairs, size=128, **short)
    knn = segmentation.Config(data=pairs, protocol="knn", size=128, bank=20_000)
    things = segmentation.Config(data=str(scenes / "things"), protocol="linear-v2", size=128, **short)
    metres = depth.Config(data=pairs, window=(128, 128), high=BEHIND, **short)
    points = matching.Config(
        data=str(scenes / "pairs" / "pairs.jsonl"), size=256, alpha=(0.1, 0.05), by="image", limit=100
    )
    matched = base.measure("matching", backbone, points)
    return {
        "things": base.measure("segmentation", backbone, things)["mIoU"],
        "linear": base.measure("segmentation", backbone, linear)["mIoU"],
        "knn": base.measure("segmentation", backbone, knn)["mIoU"],
        "depth": base.measure("depth", backbone, metres)["RMSE"],
        "clips": base.measure("tracking", backbone, tracking.Config(data=clips, short=256))["J&F"],
        "video": base.measure("tracking", backbone, tracking.Config(data=str(video), short=256))["J&F"],
        "pck": matched["PCK@0.1"],
        "pck_fine": matched["PCK@0.05"],
    }


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return the mean over seeds of each number, and its smallest and largest."""
    rows = ["backbone | " + " | ".join(COLUMNS.values())]
    for model in ("pixels", "untrained", *ARMS):
        ours = [line for line in lines if line["model"] == model]
        cells = [[line[name] for line in ours] for name in COLUMNS]
        rows.append(f"{model} | " + " | ".join(_cell(values) for values in cells))
    return "\n".join(rows)


def _cell(values: Sequence[float]) -> str:
    mean = f"{statistics.mean(values):.2f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
