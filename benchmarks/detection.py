"""Whose frozen patches show a detector more? Composed scenes, seeds, and a ResNet-18 trained end to end beside them.

    python benchmarks/scenes.py FETCHED SCENES --train 2400 --val 200 --unlabelled 4000
    python benchmarks/detection.py SCENES OUT [--seeds 0 1 2] [--steps 1200] [--jobs 2]

Backbones are those of benchmarks/dense.py: pixels, the untrained network, and those trained by DINO, DINOv2 and DINOv3
on unlabelled scenes. A decoder of one size learns from each for the same number of steps; ResNet-18 learns from the
same boxes with the same decoder on its last three grids (brought to its finest, 8 pixels), all of it, mirrored at
random, for as much processor time as all pretraining of DINOv2 and DINOv3 and the decoder of DINOv3 have taken.
Objects and backgrounds of the measurement are in neither. OUT/results.jsonl holds a line per model; what is there is
not made again.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dense import SETTINGS, models
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet18

from dinokit.annotations.boxes import Boxed, open_boxes
from dinokit.core.seed import Passes, generator
from dinokit.dense.detection import Detections, as_arrays, detect, drawn, likeliest
from dinokit.dense.detr.learning import judged, numbered, scaled
from dinokit.dense.detr.matching import Answers
from dinokit.dense.detr.network import Detector, Maps
from dinokit.dense.detr.recipe import RECIPES, Recipe
from dinokit.dense.detr.training import trained
from dinokit.dense.detr.views import View
from dinokit.images.intensity import Pixels, normalised, to_unit
from dinokit.metrics.detection import Found, Objects, average_precision

SIZE = 128  # pixels, as the scenes are
COLUMNS = {"AP": "AP", "AP50": "AP50", "AP75": "AP75", "things": "AP50 of things, whatever their class"}
ROWS = ("pixels", "untrained", "DINO", "DINOv2", "DINOv3", "ResNet-18 end to end")
GRID = 8  # pixels of ResNet's finest grid that is read


def recipe_of(steps: int, seed: int) -> Recipe:
    """Return `small` with a narrower decoder."""
    small = RECIPES["small"]
    training = replace(small.training, iterations=steps, warmup=steps // 16, seed=seed)
    narrow = replace(small, view=View(size=SIZE), dim=128, hidden=256, encoder=1, decoder=2, queries=30, many=30)
    return replace(narrow, training=training, lr=1e-3)


def main() -> None:
    """Train, measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        jobs = [
            pool.submit(seed_of, args.scenes, args.out / f"seed{seed}", seed, which, steps=args.steps)
            for seed in args.seeds
            for which in SETTINGS
        ]
        lines = [line for job in jobs for line in job.result()]
    (args.out / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    print(table(lines))


def seed_of(scenes: Path, out: Path, seed: int, which: str, *, steps: int) -> list[dict[str, Any]]:
    """Train one pretraining with all that goes on from it, a detector of each, and measure them."""
    torch.set_num_threads(1)
    data = str(scenes / "scenes")
    train, test = open_boxes(data, split="train"), open_boxes(data, split="val")
    classes, recipe = sorted({name for one in train.marks for name in one.names}), recipe_of(steps, seed)
    lines = []

    def once(name: str, make: Callable[[Path], tuple[Callable[[Tensor], Detections], float]]) -> float:
        file = out / name / "AP.json"
        if not file.exists():
            find, seconds = make(file.parent)
            numbers = measured(find, test, classes, file.parent)
            file.write_text(json.dumps({"seed": seed, "model": name, "seconds": seconds} | numbers))
        lines.append(json.loads(file.read_text()))
        print(lines[-1], flush=True)
        return float(lines[-1]["seconds"])

    timed, began = out / "pretraining.json", time.process_time()  # seconds
    found = models(scenes, out / "networks", seed, which, precision="fp32")
    if "DINOv3" in found and not timed.exists():
        timed.write_text(json.dumps(time.process_time() - began))
    for name, build in found.items():
        spent = once(name, lambda folder, build=build: frozen_one(build(), train, classes, recipe, folder))
        if name == "DINOv3":
            whole = spent + json.loads(timed.read_text())
            once(ROWS[-1], lambda folder, whole=whole: end_to_end(train, classes, recipe, seconds=whole))
    return lines


def frozen_one(
    backbone: Any, train: Boxed, classes: Sequence[str], recipe: Recipe, folder: Path
) -> tuple[Callable[[Tensor], Detections], float]:
    """Train a decoder on frozen features."""
    began = time.process_time()
    head = trained(backbone, train, classes, recipe, folder).head.eval()
    assert isinstance(head, Detector)
    return lambda image: detect(backbone, head, image, recipe.view), time.process_time() - began


class ResNet(nn.Module):
    """ResNet-18 and the decoder."""

    def __init__(self, recipe: Recipe, classes: int) -> None:
        super().__init__()
        torch.manual_seed(recipe.training.seed)
        self.body = resnet18()
        self.decoder = Detector(recipe.sizes(width=128 + 256 + 512, stride=GRID, classes=classes))

    def forward(self, images: Tensor) -> tuple[Answers, Answers]:
        """Answer for images of one size."""
        body = self.body
        x = body.layer1(body.maxpool(body.relu(body.bn1(body.conv1(images)))))
        fine = body.layer2(x)
        middle = body.layer3(fine)
        grids = [fine, middle, body.layer4(middle)]
        maps = torch.cat([F.interpolate(each, size=tuple(fine.shape[2:]), mode="bilinear") for each in grids], dim=1)
        sizes = torch.tensor([[images.shape[3], images.shape[2]]] * len(images), dtype=torch.float32)
        answers: tuple[Answers, Answers] = self.decoder(Maps(list(maps), sizes))
        return answers


def end_to_end(
    train: Boxed, classes: Sequence[str], recipe: Recipe, *, seconds: float
) -> tuple[Callable[[Tensor], Detections], float]:
    """Train ResNet-18 and the decoder for some time; the rate falls with the time that is left."""
    began, seed = time.process_time(), recipe.training.seed
    network, loss, order = ResNet(recipe, len(classes)).train(), judged(recipe), Passes(len(train), seed)
    optimiser = torch.optim.AdamW(network.parameters(), lr=recipe.lr, weight_decay=recipe.training.weight_decay)
    images = [normalised(to_unit(train.read(index)[None]), Pixels())[0] for index in range(len(train))]
    step = 0
    while (share := (time.process_time() - began) / seconds) < 1:
        for group in optimiser.param_groups:
            group["lr"] = recipe.lr * min(1.0, (step + 1) / 50) * (1 + np.cos(np.pi * share)) / 2
        draw, batch, objects = generator(seed, step), [], []
        for place in range(step * recipe.batch_size, (step + 1) * recipe.batch_size):
            index, mirror = int(order.indices(place, 1)[0]), bool(draw.integers(2))
            batch.append(images[index].flip(-1) if mirror else images[index])
            objects.append(scaled(train.marks[index], numbered(classes), seen=(SIZE, SIZE), mirror=mirror))
        optimiser.zero_grad(set_to_none=True)
        loss(network(torch.stack(batch)), objects, step).total.backward()
        nn.utils.clip_grad_norm_(network.decoder.parameters(), 0.1)
        nn.utils.clip_grad_norm_(network.body.parameters(), 0.1)
        optimiser.step()
        step += 1
    network.eval()
    print(f"ResNet-18: {step} steps in {time.process_time() - began:.0f} s", flush=True)

    @torch.no_grad()
    def find(image: Tensor) -> Detections:
        _, layers = network(normalised(to_unit(image[None]), Pixels()))
        return likeliest(layers.of(-1, 0), most=recipe.queries)

    return find, time.process_time() - began


def measured(find: Callable[[Tensor], Detections], test: Boxed, classes: Sequence[str], out: Path) -> dict[str, float]:
    """Return AP of what is found on test images, and draw a few."""
    objects, found = list[Objects](), list[Found]()
    for index, marks in enumerate(test.marks):
        image = test.read(index)
        one = find(image)
        kinds = np.array([classes.index(name) for name in marks.names], dtype=np.int64)
        objects.append(Objects(marks.boxes, kinds, marks.areas, marks.crowd))
        found.append(Found(*as_arrays(one)))
        if index < 8:
            out.mkdir(parents=True, exist_ok=True)
            drawn(image, one, classes).save(out / f"{index}.png")
    numbers, _ = average_precision(objects, found, classes=len(classes))
    alike = [[replace(one, classes=np.zeros_like(one.classes)) for one in each] for each in (objects, found)]
    things, _ = average_precision(*alike, classes=1)
    return numbers | {"things": things["AP50"]}


def table(lines: Sequence[dict[str, Any]]) -> str:
    """Return the mean over seeds of each number, and its smallest and largest."""
    rows = ["backbone | " + " | ".join(COLUMNS.values()) + " | processor seconds"]
    for model in ROWS:
        ours = [line for line in lines if line["model"] == model]
        rows.append(f"{model} | " + " | ".join(_cell([line[name] for line in ours]) for name in (*COLUMNS, "seconds")))
    return "\n".join(rows)


def _cell(values: Sequence[float]) -> str:
    mean = f"{statistics.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.1f} to {max(values):.1f})"


if __name__ == "__main__":
    main()
