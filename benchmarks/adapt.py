"""What does continued pretraining gain on other pictures, and what does it cost on the old ones?

    python benchmarks/adapt.py OUT [--seeds 0 1 2] [--arms full scratch ...] [--heads 40] [--steps 200]
        [--settings KEY=VALUE ...] [--tests]
    python benchmarks/adapt.py OUT --originals RUN RUN RUN --old FOLDER --new emoji --recipe small-cpu --batch 32 ...

The first adapts `demo` of demo:fashion, clothes that fill the picture, to those of demo:fashion-placed: the same
photos, smaller and anywhere on a black canvas. The second adapts runs that are there, one for each seed, such as of
small-cpu, to the emoji that come with the package, in OUT/emoji: two drawings of each, an emoji in one split with both.
Every arm sees as many new images; heads are new in all of them, as for a published backbone. Seeds are of the arms:

    full       what dinokit adapt trains, one portion of heads, to the last step
    scratch    --recipe on the new pictures alone        no-heads   without fitting heads first
    lora, last the other methods                         no-gram    without the Gram loss
                                                         no-decay   the same rate for all blocks

Measured is k-NN, k = 10, of both sets. Without --tests of the train side, by which settings are chosen: 2,000 images at
most, each without itself. With --tests those of train answer for 2,000 of test at most. A run that is there goes on and
is not made again.
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

OLD, NEW, LIMIT = "demo:fashion", "demo:fashion-placed", 2_000
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
SHARES = {"train": 0.6, "val": 0.15, "test": 0.25}  # of the emoji


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
    parser.add_argument("--originals", type=Path, nargs="*", default=[], help="runs, one for each seed")
    parser.add_argument("--old", default=OLD)
    parser.add_argument("--new", default=NEW, help="images with classes; or emoji")
    parser.add_argument("--recipe", default="demo", help="of the scratch")
    parser.add_argument("--batch", type=int, default=64)
    args = parser.parse_args()
    torch.set_num_threads(1)
    settings = {key: json.loads(value) for key, _, value in (each.partition("=") for each in args.settings)}
    sets = {"new": emoji(args.out / "emoji") if args.new == "emoji" else args.new, "old": args.old}
    originals = args.originals or [args.out / "original"]
    if not args.originals:
        gray = {"backbone.channels": 1}
        engine.pretrain(with_settings(find("demo"), quiet(args.old, args.batch) | gray), originals[0])
    rows: dict[str, list[dict[str, float]]] = {"original": []}
    for place, seed in enumerate(args.seeds):
        original = originals[place % len(originals)]
        rows["original"].append(quality(original, sets, tests=args.tests))
        for arm in args.arms:
            run, common = args.out / f"{arm}-{seed}", quiet(sets["new"], args.batch)
            common["backbone.channels"] = load(original).channels
            if arm == "scratch":
                steps = {"steps": args.heads + args.steps, "stages": {}}
                config = with_settings(find(args.recipe), {**steps, **common})
            else:
                config = adapting(arm, original, args.heads, args.steps, common, settings)
            engine.pretrain(override(config, {"seed": seed}, hidden=HALVES), run)
            rows.setdefault(arm, []).append(quality(run, sets, tests=args.tests))
            print(f"{run.name}: {rows[arm][-1]} of {rows['original'][-1]}", flush=True)
    print(table(rows))
    (args.out / f"{'tests' if args.tests else 'train_side'}.json").write_text(json.dumps(rows, indent=2))


def quiet(data: str, batch: int) -> dict[str, Any]:
    """Return what all trainings have in common."""
    return {
        "data.source": data, "processes": 1, "workers": 0, "eval.tasks": None, "device": "cpu",
        "checkpoint_every": 10_000, "health.every": 0, "tensorboard": False, "data.batch_size": batch,
    }  # fmt: skip


def adapting(
    arm: str, original: Path, heads: int, steps: int, common: Mapping[str, Any], settings: Mapping[str, Any]
) -> TrainConfig:
    """Return the settings of an arm that begins with the original."""
    method = arm if arm in ("lora", "last") else "full"
    # of the run, for its crops
    config = adapted(str(original), recipe="adapt-small", method=method, steps=steps + heads * (arm == "no-heads"))
    file = str(original.absolute() / "model.safetensors")  # without its heads, as a published backbone comes
    if arm == "no-heads":  # all learns from the first step
        alone = config.experiment.alone("adapt", start=file)
        begin = {"start.begin": "teacher"}  # the file holds no heads that it could go on with
        whole = TrainConfig(experiment=alone, runtime=config.runtime)
        return with_settings(whole, {**common, **begin, **own_stage(settings)})
    return with_settings(config, {"start.source": file, "steps": heads, **common, **settings, **ABLATED.get(arm, {})})


def own_stage(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the stage in which the backbone learns, as those of an experiment."""
    return {k.removeprefix(f"{CHANGES}."): value for k, value in settings.items() if k.startswith(CHANGES)}


def quality(model: Path, sets: Mapping[str, str], *, tests: bool) -> dict[str, float]:
    """Return what a model is worth on new and on old pictures, in percent."""
    backbone, found = load(model), {}
    for name, data in sets.items():
        query = "test" if tests else "train"
        config = knn.Config(data=data, gallery="train", query=query, k=(10,), limit=None if tests else LIMIT)
        found[name] = evaluations.measure("knn", backbone, config)["top1@10"]
    return found


def emoji(out: Path) -> str:
    """Write the emoji of the package as SPLIT/CATEGORY/STYLE-ID.png, if they are not there."""
    if out.exists():
        return str(out)
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
    return str(out)


def table(rows: Mapping[str, list[dict[str, float]]]) -> str:
    """Return a line per arm: mean and each seed, and the mean change against the original."""
    names = list(rows["original"][0])
    lines = ["arm | " + " | ".join(names)]
    for arm, found in rows.items():
        cells = []
        for name in names:
            values = [each[name] for each in found]
            change = statistics.mean(value - before[name] for value, before in zip(values, rows["original"]))
            each = ", ".join(f"{value:.1f}" for value in values)
            cells.append(f"{statistics.mean(values):.1f} ({each}; {change:+.1f})")
        lines.append(f"{arm} | " + " | ".join(cells))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
