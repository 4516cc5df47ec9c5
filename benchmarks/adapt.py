"""What does continued pretraining gain on other pictures, and what does it cost on the old ones?

    python benchmarks/adapt.py OUT [--seeds 0 1 2] [--arms full scratch ...] [--heads 40] [--steps 200]
        [--settings KEY=VALUE ...] [--tests]

The original is `demo` on demo:fashion, clothes that fill the picture. The new pictures are those of
demo:fashion-placed: the same photos, smaller and anywhere on a black canvas. Every arm sees as many new images,
64 a step, through the crops of `demo`; heads are new in all of them, as for a published backbone. Seeds are of the
arms:

    full       dinokit adapt, to its last step           no-heads   without fitting heads first
    lora, last its other methods                         no-gram    without the Gram loss
    scratch    `demo` on the new pictures alone          no-decay   the same rate for all blocks

Measured is k-NN, k = 10, of both sets. Without --tests of the train side, by which settings are chosen: 2,000 images,
each without itself. With --tests 10,000 images of train answer for the 2,000 of test. A run that is there goes on and
is not made again.
"""

import argparse
import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dinokit.checkpoints.load import load
from dinokit.config import override
from dinokit.evaluation import base as evaluations
from dinokit.evaluation import knn
from dinokit.recipes import find
from dinokit.recipes.adapted import adapted
from dinokit.run import engine
from dinokit.training.config import HALVES, TrainConfig, with_settings

OLD, NEW = "demo:fashion", "demo:fashion-placed"
ARMS = ("full", "scratch", "no-heads", "no-gram", "no-decay", "lora", "last")
CHANGES = "stages.adapt.changes"
ABLATED: Mapping[str, Mapping[str, Any]] = {
    "no-gram": {
        f"{CHANGES}.objectives": {},
        f"{CHANGES}.anchor": None,
        f"{CHANGES}.data.views.anchor_size": 0,
    },
    "no-decay": {f"{CHANGES}.optim.layer_decay": 1.0},
}


def main() -> None:
    """Train, measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=ARMS, choices=ARMS)
    parser.add_argument("--heads", type=int, default=40)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--settings", nargs="*", default=[], metavar="KEY=VALUE", help="of all that adapt")
    parser.add_argument("--tests", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    settings = {key: json.loads(value) for key, _, value in (each.partition("=") for each in args.settings)}
    original = args.out / "original"
    engine.pretrain(with_settings(find("demo"), quiet(OLD)), original)
    rows = {"original": [quality(original, tests=args.tests)]}
    for seed in args.seeds:
        for arm in args.arms:
            run = args.out / f"{arm}-{seed}"
            config = configured(arm, original, args.heads, args.steps, settings)
            engine.pretrain(override(config, {"seed": seed}, hidden=HALVES), run)
            rows.setdefault(arm, []).append(quality(run, tests=args.tests))
            print(f"{run.name}: {rows[arm][-1]} of {rows['original'][0]}", flush=True)
    print(table(rows))
    (args.out / f"{'tests' if args.tests else 'train_side'}.json").write_text(json.dumps(rows, indent=2))


def quiet(data: str) -> dict[str, Any]:
    """Return what all trainings have in common."""
    return {
        "data.source": data, "processes": 1, "workers": 0, "eval.tasks": None, "device": "cpu",
        "checkpoint_every": 10_000, "health.every": 0, "tensorboard": False, "backbone.channels": 1,
        "data.batch_size": 64,
    }  # fmt: skip


def configured(arm: str, original: Path, heads: int, steps: int, settings: Mapping[str, Any]) -> TrainConfig:
    """Return the settings of an arm."""
    common = quiet(NEW)
    if arm == "scratch":
        return with_settings(find("demo"), {"steps": heads + steps, **common})
    method = arm if arm in ("lora", "last") else "full"
    # of the run, for its crops
    config = adapted(str(original), recipe="adapt-small", method=method, steps=steps + heads * (arm == "no-heads"))
    file = str(original.absolute() / "model.safetensors")  # without its heads, as a published backbone comes
    if arm == "no-heads":  # all learns from the first step
        alone = config.experiment.alone("adapt", start=file)
        common["start.begin"] = "teacher"  # the file holds no heads that it could go on with
        return with_settings(TrainConfig(experiment=alone, runtime=config.runtime), {**common, **own_stage(settings)})
    return with_settings(config, {"start.source": file, "steps": heads, **common, **settings, **ABLATED.get(arm, {})})


def own_stage(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the stage in which the backbone learns, as those of an experiment."""
    return {k.removeprefix(f"{CHANGES}."): value for k, value in settings.items() if k.startswith(CHANGES)}


def quality(model: Path, *, tests: bool) -> dict[str, float]:
    """Return what a model is worth on new and on old pictures, in percent."""
    backbone, found = load(model), {}
    for name, data in {"new": NEW, "old": OLD}.items():
        asked = {"query": "test"} if tests else {"query": "train", "limit": 2_000}
        config = knn.Config(data=data, gallery="train", k=(10,), **asked)
        found[name] = evaluations.measure("knn", backbone, config)["top1@10"]
    return found


def table(rows: Mapping[str, list[dict[str, float]]]) -> str:
    """Return a line per arm: mean and each seed, and the mean change against the original."""
    (original,) = rows["original"]
    names = list(original)
    lines = ["arm | " + " | ".join(names)]
    for arm, found in rows.items():
        cells = []
        for name in names:
            values = [each[name] for each in found]
            mean, each = statistics.mean(values), ", ".join(f"{value:.1f}" for value in values)
            cells.append(f"{mean:.1f} ({each}; {mean - original[name]:+.1f})")
        lines.append(f"{arm} | " + " | ".join(cells))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
