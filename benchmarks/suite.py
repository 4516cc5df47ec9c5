"""Which of ten ways to see real pictures is the best? One `dinokit evaluate suite` over all of them.

    shared/fetch_data.sh FETCHED tux walls opencv skimage
    python benchmarks/suite.py FETCHED DATA OUT [--minutes 3] [--suite quick]

DATA holds openclipart_96.zip. OUT then holds

    sets/          clipart: drawings of 12 kinds; stamps: learnt on drawings, asked with photos of the same kinds; and
                   what benchmarks/scenes.py composes: objects, scenes, cut-outs, clips, pairs
    pretraining/   pictures of the train sides alone, and mix.yaml of them with demo:fashion and demo:fashion-placed
    runs/          the recipes of DINO, DINOv2 and DINOv3 in miniature, each as long as --minutes of one core last
    resnet18/      torchvision's ResNet-18, trained on the labels of all train sides for as long: the ceiling
    suite/         results.json, results.md and index.html: these, an untrained network, pixels and colours

A drawing is on one side for all sets, by its bytes. No emoji is trained on. What is there is not made again.
"""

import argparse
import io
import json
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from scenes import STAMPS

import dinokit
from dinokit.config import to_plain
from dinokit.images.intensity import prepare
from dinokit.sources.source import open_source, splits
from dinokit.views import augment

KINDS = {  # folders of openclipart -> a class of clipart
    "food/fruit": "fruit",
    "food/desserts": "dessert",
    "animals/mammals": "mammal",
    "animals/birds": "bird",
    "animals/bugs": "insect",
    "transportation/vehicles": "vehicle",
    "recreation/music": "music",
    "recreation/sports": "sport",
    "buildings/homes": "home",
    "plants/flowers": "flower",
    "people/smilies": "smiley",
    "tools": "tool",
}
SHARED = {  # a class of both: folders of the stamps
    "mammal": ("animals/mammals",),
    "bird": ("animals/birds",),
    "insect": ("animals/insects",),
    "fruit": ("food/fruit",),
    "flower": ("plants/flowers",),
    "vehicle": ("vehicles",),
    "tool": ("household/tools",),
}
DEMO = ("demo:fashion", "demo:fashion-placed", "demo:emoji")
FEW = 9  # masks of cut-outs
TEST = 0.3  # share of the drawings
STARS = "shapes/stars"  # 1,378 that differ by an angle or a number
# of all three: small pictures, large batches and gentle crops, which docs/log.md found to matter at this size
SMALL = {
    "data.pixels.size": 32,
    "data.views.global_size": 32,
    "data.views.global_scale": [0.5, 1.0],
    "data.views.local_size": 16,
    "data.views.local_scale": [0.3, 0.7],
    "data.batch_size": 64,
    "optim.lr.peak": 4e-3,
}
LEARNED = {"stages.anchor": None, "backbone.position": "offset", "backbone.position_grid": 4}  # before DINOv3
RECIPES: Mapping[str, Mapping[str, Any]] = {  # `small-cpu` with the objectives, masks and positions of each paper
    "dino": {
        **LEARNED,
        "data.masks": None,
        "objectives.ibot": None,
        "objectives.koleo": None,
        "objectives.dino.targets": "centring",
        "backbone.mask_token": False,
        # nothing keeps its features apart but what views do not share, so these differ as much as published
        **{f"data.views.{name}": to_plain(one) for name, one in zip(("first", "second", "local"), augment.dino())},
    },
    "dinov2": {**LEARNED, "data.masks.style": "dinov2"},
    "dinov3": {"stages.anchor.changes.data.views.anchor_size": 64},
}
ANCHORED = 0.25  # share of DINOv3's steps that have the anchor
TIMED = 4, 24  # steps of two runs that say how long one lasts
SIDE, BATCH = 32, 64  # of the ResNet: pixels, images of a step
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def main() -> None:
    """Make what is missing and run the suite."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fetched", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=3, help="of one core for each training")
    parser.add_argument("--suite", default="quick")
    parser.add_argument("--prepare", action="store_true", help="make sets and models, and measure nothing")
    args = parser.parse_args()
    sets(args.fetched, args.data, args.out)
    for name in RECIPES:
        alone(pretrained, name, args.out, args.minutes)
    alone(supervised, args.out, args.minutes)
    if args.prepare:
        return
    models = [*(args.out / "runs" / name for name in reversed(RECIPES)), f"timm/local-dir:{args.out / 'resnet18'}"]
    words = ["evaluate", "suite", "--suite", args.suite, "--models", *map(str, models), "--baselines"]
    command = [sys.executable, "-m", "dinokit", *words, "--data", args.out / "sets", *DEMO, "--out", args.out / "suite"]
    subprocess.run(command, check=True)


def alone(work: Any, *arguments: Any) -> None:
    """Run a function in a process of one thread, whose seconds are then its own."""
    with ProcessPoolExecutor(
        1, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as one:
        one.submit(work, *arguments).result()


def sets(fetched: Path, data: Path, out: Path) -> None:
    """Write everything that is looked at."""
    if (out / "pretraining" / "mix.yaml").exists():
        return
    scenes = [sys.executable, Path(__file__).parent / "scenes.py", fetched, out / "sets"]
    sizes = {"train": 300, "val": 100, "unlabelled": 4000, "pairs": 60, "clips": 4, "frames": 15}
    subprocess.run([*scenes, *(f"--{name}={count}" for name, count in sizes.items())], check=True)
    (out / "pretraining").mkdir(parents=True, exist_ok=True)
    (out / "sets" / "unlabelled").rename(out / "pretraining" / "scenes")
    for kind in ("images", "masks"):  # a handful, as published
        few = out / "sets" / "cut-outs" / kind
        few.mkdir(parents=True)
        for path in sorted((out / "sets" / "things" / "train" / kind).iterdir())[:FEW]:
            path.rename(few / path.name)
    shutil.rmtree(out / "sets" / "things")
    for number, (folder, side, image) in enumerate(drawings(data / "openclipart_96.zip")):
        kind = KINDS.get(folder)
        places = [] if kind is None else [out / "sets" / "clipart" / side / kind]
        if side == "train":
            places += [out / "pretraining" / "drawings"]
            places += [out / "sets" / "stamps" / "train" / kind] if kind in SHARED else []
        for place in places:
            place.mkdir(parents=True, exist_ok=True)
            image.save(place / f"{number:04}.png")
    for kind, folders in SHARED.items():
        place = out / "sets" / "stamps" / "test" / kind
        place.mkdir(parents=True)
        paths = sorted(path for folder in folders for path in (fetched / STAMPS / folder).rglob("*.png"))
        for number, path in enumerate(path for path in paths if "cartoon" not in path.parts):
            picture = white(Image.open(path))
            picture.thumbnail((96, 96))
            picture.save(place / f"{number:03}.png")
    weights = {"demo:fashion": 0.2, "demo:fashion-placed": 0.2, "drawings": 0.3, "scenes": 0.3}
    lines = [f"  - {{source: '{name}', weight: {weight}}}" for name, weight in weights.items()]
    (out / "pretraining" / "mix.yaml").write_text("\n".join(["sources:", *lines, ""]))


def drawings(path: Path) -> Iterator[tuple[str, str, Image.Image]]:
    """Yield (folder, side, drawing) of all different ones but stars; by its bytes each is on one side."""
    seen = set()
    with zipfile.ZipFile(path) as archive:
        for line in archive.read("index.tsv").decode().splitlines():
            number, name, _, _, digest = line.split("\t")
            folder = name.rpartition("/")[0]
            if digest in seen or folder == STARS:
                continue
            seen.add(digest)
            side = "test" if int(digest, 16) % 1000 < 1000 * TEST else "train"
            yield folder, side, white(Image.open(io.BytesIO(archive.read(f"{int(number):05}.webp"))))


def white(picture: Image.Image) -> Image.Image:
    """Lay a picture on white."""
    picture = picture.convert("RGBA")
    paper = Image.new("RGBA", picture.size, "white")
    paper.alpha_composite(picture)
    return paper.convert("RGB")


def pretrained(name: str, out: Path, minutes: float) -> None:
    """Train a recipe for a time, on the mixture."""
    runs = out / "runs"
    if (runs / name / "model.safetensors").exists():
        return
    if not (runs / f"{name}.json").exists():
        train(name, out, steps=2, run=runs / f"{name}-first")  # which reads the images once
        spent = []
        for steps in TIMED:  # what they differ by is steps alone
            begin = time.process_time()
            train(name, out, steps=steps, run=runs / f"{name}-{steps}")
            spent.append(time.process_time() - begin)
        seconds = (spent[1] - spent[0]) / (TIMED[1] - TIMED[0])
        told = {"seconds of a step": seconds, "steps": int(60 * minutes / seconds)}
        (runs / f"{name}.json").write_text(json.dumps(told))
    begin, steps = time.process_time(), json.loads((runs / f"{name}.json").read_text())["steps"]
    train(name, out, steps=steps, run=runs / name)
    print(f"{name}: {steps} steps in {time.process_time() - begin:.0f} s of one core", flush=True)


def train(name: str, out: Path, *, steps: int, run: Path) -> None:
    """Train a recipe for so many steps, all its stages together."""
    anchored = 0 if "stages.anchor" in RECIPES[name] else max(int(ANCHORED * steps), 1)
    quiet = {"processes": 1, "workers": 0, "eval.tasks": [], "tensorboard": False, "checkpoint_every": 10**6}
    stages = {"stages.anchor.steps": anchored} if anchored else {}
    settings = {"seed": 0, "steps": steps - anchored, **quiet, **stages, **SMALL, **RECIPES[name]}
    dinokit.pretrain("small-cpu", data=str(out / "pretraining" / "mix.yaml"), out=run, settings=settings)


def supervised(out: Path, minutes: float) -> None:
    """Train a ResNet-18 on all labels there are, for a time, and write it as timm reads it."""
    from torchvision.models import resnet18
    from torchvision.transforms import v2

    if (out / "resnet18" / "config.json").exists():
        return
    images, labels, owners = labelled(out)
    torch.manual_seed(0)
    network = resnet18(num_classes=int(labels.max()) + 1)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.05)
    crop = v2.RandomResizedCrop(SIDE, scale=(0.3, 1.0), antialias=True)
    draw, begin, steps = np.random.default_rng(0), time.process_time(), 0
    mean, std = (torch.tensor(each)[:, None, None] for each in (MEAN, STD))
    while (share := (time.process_time() - begin) / (60 * minutes)) < 1:
        optimiser.param_groups[0]["lr"] = 1e-3 * min(1, (steps + 1) / 50) * (1 + np.cos(np.pi * share)) / 2
        rows = [int(draw.choice(owners[int(draw.integers(len(owners)))])) for _ in range(BATCH)]
        views = torch.stack([crop(images[row]) for row in rows]).float() / 255
        views = torch.where(torch.from_numpy(draw.random(BATCH) < 0.5)[:, None, None, None], views.flip(3), views)
        loss = torch.nn.functional.cross_entropy(network((views - mean) / std), labels[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        steps += 1
        if steps % 100 == 0:
            print(f"resnet18: step {steps}, loss {loss.item():.3f}", flush=True)
    (out / "resnet18").mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), out / "resnet18" / "model.safetensors")
    about = {"mean": MEAN, "std": STD, "input_size": [3, SIDE, SIDE], "num_classes": len(network.fc.weight)}
    told = {"architecture": "resnet18", "num_classes": len(network.fc.weight), "pretrained_cfg": about}
    (out / "resnet18" / "config.json").write_text(json.dumps(told))
    print(f"resnet18: {steps} steps in {time.process_time() - begin:.0f} s of one core", flush=True)


def labelled(out: Path) -> tuple[torch.Tensor, torch.Tensor, list[np.ndarray]]:
    """Return images, classes and the rows of each set, of all train sides; classes of one name are one."""
    images, words, owners = [], [], []
    for data in (
        "demo:fashion",
        "demo:fashion-placed",
        *(str(out / "sets" / n) for n in ("clipart", "stamps", "objects")),
    ):
        assert "train" in splits(data)
        source = open_source(data, split="train")
        assert source.labels is not None
        rows = range(len(images), len(images) + len(source))
        images += [prepare(source.read(index), size=SIDE, patch_size=1) for index in range(len(source))]
        words += [source.classes[label] for label in source.labels]
        owners.append(np.array(rows))
    names = sorted(set(words))
    return torch.stack(images), torch.tensor([names.index(word) for word in words]), owners


if __name__ == "__main__":
    main()
