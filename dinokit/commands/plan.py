"""`dinokit plan`: predict what a run takes, and what settings fit the machines"""

import math
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch

from dinokit import recipes
from dinokit.annotations.boxes import open_boxes
from dinokit.checkpoints.load import load
from dinokit.checkpoints.store import RunFolder
from dinokit.commands.planned import print_detector, print_plan
from dinokit.config import NO_SETTINGS, Settings
from dinokit.core import device as devices
from dinokit.core.files import check_result, write_json
from dinokit.core.messages import UserError, info
from dinokit.dense.detr.few import shapes
from dinokit.evaluation import detection
from dinokit.models.architecture import ARCHITECTURES, build, named
from dinokit.models.features import Backbone
from dinokit.planning import cost
from dinokit.planning import detection as detecting
from dinokit.planning import plan as planning
from dinokit.planning.usual import MFU
from dinokit.run.precision import settled
from dinokit.training.config import with_settings
from dinokit.training.course import FIRST as BEFORE_STAGES

EXAMPLE = ("demo",)  # whose settings --help lists where none is named


def plan(
    recipe: str,
    *,
    data: str = "",
    gpus: int = 1,
    gpu_memory: float | None = None,
    tflops: float | None = None,
    mfu: float = MFU,
    layout: bool = False,
    out: Path | None = None,
    settings: Settings = NO_SETTINGS,
    **named: Any,
) -> dict[str, planning.Plan]:
    """Predict parameters, operations, memory, messages and hours of every stage, and what settings fit the machines.

    Any setting of the recipe can be changed as in `dinokit pretrain`. `dinokit plan detection --model MODEL` plans the
    training of a detector on frozen features.

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
        check_result(Path(out), json=True)
    source = {"experiment.data.source": data} if data else {}
    config = with_settings(recipes.find(recipe), {**settings, **named, **source})
    if not tflops and Path(recipe).is_file():  # a run goes on as it began
        config = settled(config, RunFolder(Path(recipe).parent), devices.choose())
    peak, bf16 = (tflops * 1e12, config.experiment.precision != "fp32") if tflops else planning.here(config.experiment)
    room = None if gpu_memory is None else gpu_memory * 1e9
    found = {}
    for stage in config.experiment.all_stages:
        one = planning.plan(stage.experiment, config.runtime, ranks=gpus, room=room, rate=peak * mfu, bf16=bf16)
        print_plan(one, stage=stage.name, layout=cost.networks(stage.experiment) if layout else None)
        found[stage.name] = one
    hours = sum(each.hours for each in found.values())
    if len(found) > 1:
        info(f"all stages: {hours:,.1f} h on {gpus:,} GPUs")
    first = next(iter(found.values()))
    verb = "pretrain" if BEFORE_STAGES in found else "adapt --from MODEL --recipe"
    info(f"next: dinokit {verb} {recipe} --data {data or 'FOLDER'} --out runs/NAME {first.settings}")
    if out is not None:
        stages = {name: asdict(each) | {"peak": each.peak, "hours": each.hours} for name, each in found.items()}
        write_json(Path(out), {"stages": stages, "hours": hours})
    return found


def plan_detection(
    *,
    model: str,
    data: str = "",
    images: int | None = None,
    recipe: Literal["small", "few", "dinov3"] = "small",
    size: int | None = None,
    queries: int | None = None,
    batch_size: int | None = None,
    iterations: int | None = None,
    tflops: float | None = None,
    mfu: float = MFU,
    out: Path | None = None,
) -> detecting.DetectorPlan:
    """Predict parameters, operations, memory, disk and hours of a detector on frozen features.

    Args:
        model: an architecture, such as vits16 or dinov3_vit7b16, without its weights; or whatever `evaluate` takes.
        data: images with boxes, as `evaluate detection` takes them, whose sizes count; without it all are 640 x 480.
        images: how many there are without --data; COCO's 118,287 if left out, of few the 512 that it makes of yours.
        recipe: small, few or dinov3, as of `evaluate detection`.
        size: pixels of the short side, the long one being at most 4/3 of them (dinov3: 8 times); the recipe's if left
            out.
        queries: the recipe's if left out.
        batch_size: images per step; the recipe's if left out.
        iterations: training steps; the recipe's if left out.
        tflops: peak of the device in float32; without it this machine's matrix product is measured.
        mfu: share of the peak that training reaches.
        out: file that receives all numbers as JSON.
    """
    _check(1, None, tflops, mfu)
    if out is not None:
        check_result(Path(out), json=True)
    if data and images is not None:
        raise UserError("data says how many images there are; leave --images out")
    if images is not None and images < 1:
        raise UserError(f"expected --images to be at least 1, got {images}")
    backbone = _network(str(model))
    changed: dict[str, Any] = {"size": size, "queries": queries, "batch_size": batch_size, "iterations": iterations}
    chosen = detection.chosen(detection.Config(data=data or "COCO", recipe=recipe, **changed))
    sizes, classes = [detecting.USUAL] * (images or chosen.pictures or detecting.COCO), detecting.CLASSES
    objects = detecting.OBJECTS
    if data:
        boxed = open_boxes(str(data), prefers=("train",), channels=backbone.channels, white=backbone.pixels.white)
        sizes = [one.size for one in boxed.marks]
        classes = len({name for one in boxed.marks for name in one.names})
        objects = sum(len(one.names) for one in boxed.marks) / len(boxed)
    sizes = shapes(sizes, pictures=chosen.pictures, view=chosen.view)
    peak = tflops * 1e12 if tflops else planning.measured_rate(devices.choose(), bf16=False)
    found = detecting.plan_detector(backbone, chosen, sizes=sizes, classes=classes, rate=peak * mfu, objects=objects)
    print_detector(found, f"{recipe} on {model}, {len(sizes):,} images, {classes} classes")
    given = " ".join(f"--{name} {value}" for name, value in changed.items() if value is not None)
    which = "MODEL" if _is_architecture(model) else model
    if chosen.pictures:
        words = f"--train-on {data or 'FEW'} --model {which} --data PHOTOS --out FOLDER {given}".strip()
        info(f"next: dinokit predict {words}")
    else:
        words = f"--model {which} --data {data or 'COCO'} --recipe {recipe} {given}".strip()
        info(f"next: dinokit evaluate detection {words} --save FOLDER --no-baselines")
        info("without --no-baselines two more detectors are trained: of the untrained network, and of raw pixels")
    if out is not None:
        write_json(Path(out), asdict(found) | {"peak": found.peak, "hours": found.seconds / 3600})
    return found


INNER = {"detection": plan_detection}  # a verb of its own under this one


def _is_architecture(model: str) -> bool:
    """Tell an architecture from a file, a folder, a peer, or weights by name."""
    return not os.path.exists(model) and not {"/", "."} & set(model)


def _network(model: str) -> Backbone:
    """Return a network without the numbers of its weights."""
    if not _is_architecture(model):
        return load(model).to("meta")
    with torch.device("meta"):
        return build(ARCHITECTURES[named(model)])


def _check(gpus: int, gpu_memory: float | None, tflops: float | None, mfu: float) -> None:
    if (
        gpus < 1
        or not 0 < mfu <= 1
        or not all(0 < each < math.inf for each in (gpu_memory, tflops) if each is not None)
    ):
        raise UserError(
            f"gpus, gpu_memory and tflops must be positive and mfu in (0, 1], got {gpus}, {gpu_memory}, {tflops}, {mfu}"
        )


def explained(words: Sequence[str]) -> tuple[str, Any]:
    """Return the recipe that help is about and its settings."""
    return words[0], recipes.find(words[0])
