"""What does continued pretraining gain on other pictures, and what does it cost on the old ones?

    python benchmarks/adapt.py OUT [--seeds 0 1 2] [--arms full scratch ...] [--first 400] [--heads 50] [--steps 150]
        [--settings KEY=VALUE ...] [--tests]

The originals are runs of `demo` on demo:fashion, shortened to --first steps. The new pictures are the emoji that come
with the package, two drawings of each, divided by emoji into train, val and test (OUT/emoji). Arms, all of as many new
images:

    full       dinokit adapt of the file, whose heads are new, to its last step
    lora, last its other methods                      no-heads   without fitting heads first
    scratch    `demo` on the new pictures alone       no-gram    without the Gram loss
                                                      no-decay   the same rate for all blocks

What is measured without --tests is of the train side, by which settings were chosen: k-NN of emoji, train answers val;
of fashion, 2,000 images of train by leave-one-out. With --tests: train answers test, of emoji, and of fashion (4,000
answer). A run that is there goes on and is not made again.
"""

import argparse
import json
import random
import statistics
import zipfile
from collections.abc import Mapping
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from dinokit.checkpoints.load import load
from dinokit.config import override
from dinokit.evaluation import base as evaluations
from dinokit.evaluation import knn
from dinokit.recipes import find
from dinokit.recipes.adapted import adapted
from dinokit.run import engine
from dinokit.training.config import HALVES, TrainConfig, with_settings

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
SHARES = {"train": 0.6, "val": 0.15, "test": 0.25}


def main() -> None:
    """Train, measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=ARMS, choices=ARMS)
    parser.add_argument("--first", type=int, default=400)
    parser.add_argument("--heads", type=int, default=50)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--settings", nargs="*", default=[], metavar="KEY=VALUE", help="of all that adapt")
    parser.add_argument("--tests", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    settings = {key: json.loads(value) for key, _, value in (each.partition("=") for each in args.settings)}
    emoji(args.out / "emoji")
    rows: dict[str, list[dict[str, float]]] = {"original": []}
    for seed in args.seeds:
        original = args.out / f"original-{seed}"
        engine.pretrain(
            with_settings(find("demo"), {"steps": args.first, "seed": seed} | quiet("demo:fashion")), original
        )
        rows["original"].append(quality(args.out, original, tests=args.tests))
        for arm in args.arms:
            run = args.out / f"{arm}-{seed}"
            config = configured(arm, original, args.out / "emoji", args.heads, args.steps, settings)
            engine.pretrain(override(config, {"seed": seed}, hidden=HALVES), run)
            rows.setdefault(arm, []).append(quality(args.out, run, tests=args.tests))
            print(f"{run.name}: {rows[arm][-1]} of {rows['original'][-1]}", flush=True)
    print(table(rows))
    (args.out / f"{'tests' if args.tests else 'train_side'}.json").write_text(json.dumps(rows, indent=2))


def quiet(data: str) -> dict[str, Any]:
    """Return what all trainings have in common."""
    return {
        "data.source": data, "processes": 1, "workers": 0, "eval.tasks": None, "precision": "fp32", "device": "cpu",
        "checkpoint_every": 10_000, "health.every": 0, "tensorboard": False, "backbone.channels": 1,
        "data.batch_size": 64,
    }  # fmt: skip


def configured(
    arm: str, original: Path, data: Path, heads: int, steps: int, settings: Mapping[str, Any]
) -> TrainConfig:
    """Return the settings of an arm; all see as many images."""
    common = quiet(str(data))
    if arm == "scratch":
        return with_settings(find("demo"), {"steps": heads + steps, **common})
    method = arm if arm in ("lora", "last") else "full"
    file = str(original.absolute() / "model.safetensors")  # without its heads, as a published backbone comes
    if arm == "no-heads":  # all learns from the first step
        config = adapted(file, recipe="adapt-small", method=method, steps=heads + steps)
        alone = config.experiment.alone("adapt", start=file)
        return with_settings(TrainConfig(experiment=alone, runtime=config.runtime), {**common, **own_stage(settings)})
    config = adapted(file, recipe="adapt-small", method=method, steps=steps)
    return with_settings(config, {"steps": heads, **common, **settings, **ABLATED.get(arm, {})})


def own_stage(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the stage in which the backbone learns, as those of an experiment."""
    return {k.removeprefix(f"{CHANGES}."): value for k, value in settings.items() if k.startswith(CHANGES)}


def quality(out: Path, model: Path, *, tests: bool) -> dict[str, float]:
    """Return what a model is worth on new and on old pictures: k-NN, k = 10, in percent."""
    emojis = str(out / "emoji")
    asked: dict[str, dict[str, Any]] = {
        "new": {"data": emojis, "gallery": "train", "query": "test" if tests else "val"},
        "old": {"data": "demo:fashion", "gallery": "train", "query": "test" if tests else "train"},
    }
    asked["old"]["limit"] = 4_000 if tests else 2_000
    backbone = load(model)
    return {
        name: evaluations.measure("knn", backbone, knn.Config(k=(10,), **settings))["top1@10"]
        for name, settings in asked.items()
    }


def emoji(out: Path) -> None:
    """Write the emoji of the package as SPLIT/CATEGORY/STYLE-ID.png; an emoji is in one split with all its drawings."""
    if out.exists():
        return
    with zipfile.ZipFile(str(files("dinokit.sources") / "assets" / "emoji_noto_twemoji_64.zip")) as archive:
        entries = [each for each in json.loads(archive.read("labels.json")) if each["category"] != "Component"]
        random.Random(0).shuffle(entries)
        ends = [int(len(entries) * sum(list(SHARES.values())[: n + 1])) for n in range(len(SHARES))]
        for index, entry in enumerate(entries):
            split = next(name for name, end in zip(SHARES, ends, strict=True) if index < end or name == "test")
            folder = out / split / entry["category"].replace(" & ", "-")
            folder.mkdir(parents=True, exist_ok=True)
            for style in ("noto", "twemoji"):
                image = Image.open(BytesIO(archive.read(f"{style}/{entry['id']}.webp"))).convert("RGBA")
                white = Image.new("RGBA", image.size, "white")
                Image.alpha_composite(white, image).convert("RGB").save(folder / f"{style}-{entry['id']}.png")


def table(rows: Mapping[str, list[dict[str, float]]]) -> str:
    """Return a line per arm: mean and each seed, and the mean change against the original."""
    names = list(rows["original"][0])
    lines = ["arm | " + " | ".join(names)]
    for arm, found in rows.items():
        cells = []
        for name in names:
            values = [each[name] for each in found]
            changes = [value - before[name] for value, before in zip(values, rows["original"])]
            each = ", ".join(f"{value:.1f}" for value in values)
            cells.append(f"{statistics.mean(values):.1f} ({each}; {statistics.mean(changes):+.1f})")
        lines.append(f"{arm} | " + " | ".join(cells))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
