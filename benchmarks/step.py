"""How fast is a training step, and how much memory does it take? Beside plain PyTorch and LightlyTrain.

    python benchmarks/step.py [--models s tiny] [--prototypes 4096 65536 262144] [--batch 8] [--rounds 5]
                              [--sides ours ...] [--lightly PYTHON]

Sides, each a process with all cores, taking turns round by round, medians:

    plain           the step written from the formulas (peers/plain_step.py), float32; in bf16 too, if there is any
    ours            the same work: no stochastic depth, default precision (bf16 where it is faster)
    ours, fp32      the same in float32
    ours, recipe    with the stochastic depth of the recipe
    ours, selective / full   the first, with recomputed activations

2 x 224 + 8 x 96 pixels, random crops: no data is loaded. MFU is the plain step's count of operations in matrix products
by torch's flop counter, over the time, relative to one large product in the same run. LightlyTrain's DINOv2 (--lightly,
the interpreter of an environment that has it) trains a ViT-S/14 for 2 and for 6 steps of 8 images by its own command;
the difference is the time of four steps. "ours, v2" is the recipe dinov2-vits14 with 65,536 prototypes.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from sides import answer, compared
from torch.utils.flop_counter import FlopCounterMode

from dinokit import recipes
from dinokit.config import override
from dinokit.core import device as devices
from dinokit.models.architecture import VARIANTS
from dinokit.training.config import TrainConfig
from dinokit.training.step import Trainer
from dinokit.views.multicrop import Views

CPU = torch.device("cpu")
MODELS = {"s": VARIANTS["dinov3_vits16"], "tiny": replace(VARIANTS["vit_tiny"], patch_size=16)}
SIDES: dict[str, dict[str, Any]] = {
    "ours": {"experiment.backbone.drop_path": 0.0},
    "ours, fp32": {"experiment.backbone.drop_path": 0.0, "experiment.precision": "fp32"},
    "ours, recipe": {},
    "ours, selective": {"experiment.backbone.drop_path": 0.0, "runtime.recompute": "selective"},
    "ours, full": {"experiment.backbone.drop_path": 0.0, "runtime.recompute": "full"},
}
V2 = "ours, v2"
NOTHING: Mapping[str, Any] = {}
HIDDEN = 60  # patches of each masked crop; half of the crops are masked


def main() -> None:
    """Print a row per model, number of prototypes and side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--prototypes", nargs="+", type=int, default=[4096, 65536, 262144])
    parser.add_argument("--sides", nargs="+", choices=list(SIDES), default=list(SIDES), help="beside plain; 4 GB each")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--lightly", metavar="PYTHON", help="an interpreter that has lightly-train")
    parser.add_argument("--side", nargs=4, help=argparse.SUPPRESS)  # one side's own process
    arguments = parser.parse_args()
    if arguments.side:
        _serve(*arguments.side)
        return
    native = devices.has_bf16(CPU)
    plain = ["plain", "plain bf16"] if native else ["plain"]
    print(f"torch {torch.__version__}, {devices.cores()} cores, bf16 in hardware: {'yes' if native else 'no'}")
    print("model, prototypes | side | s | img/s | CPU s | peak MB | MFU | times plain")
    for model in arguments.models:
        for prototypes in arguments.prototypes:
            _rows(model, prototypes, [*plain, *arguments.sides], batch=arguments.batch, rounds=arguments.rounds)
    if arguments.lightly:
        _beside_lightly(arguments.lightly, rounds=arguments.rounds, native=native)


def _rows(model: str, prototypes: int, sides: list[str], *, batch: int, rounds: int) -> None:
    words = (model, str(prototypes), str(batch))
    found = compared(
        {side: [sys.executable, __file__, "--side", side, *words] for side in [*sides, "product"]}, rounds=rounds
    )
    rate = _PRODUCT / found.pop("product").seconds  # operations per second
    work = _operations(model, prototypes, batch)
    for side, figure in found.items():
        mfu = f"{work / figure.seconds / rate:.0%}" if "ours" in side and "recipe" not in side else ""
        times = found["plain"].seconds / figure.seconds
        print(
            f"{model}, {prototypes:,} | {side} | {figure.seconds:.2f} | {batch / figure.seconds:.2f} | "
            f"{figure.processor:.1f} | {figure.memory:.0f} | {mfu} | {times:.2f}",
            flush=True,
        )


def _beside_lightly(python: str, *, rounds: int, native: bool) -> None:
    """Compare DINOv2 on a ViT-S/14, by turns."""
    command = [sys.executable, __file__, "--side", V2, "s", "65536", "8"]
    precisions = ["32-true", "bf16-mixed"] if native else ["32-true"]
    ours: list[float] = []
    theirs: dict[str, list[float]] = {precision: [] for precision in precisions}
    with tempfile.TemporaryDirectory() as folder:
        short, long = (_photos(Path(folder) / str(steps), 8 * steps) for steps in (2, 6))
        for _ in range(rounds):
            ours.append(compared({"ours": command}, rounds=2)["ours"].seconds)
            for precision in precisions:
                first, second = (_lightly(python, photos, precision) for photos in (short, long))
                theirs[precision].append((second - first) / 4)
    print("DINOv2, S/14, 65,536 | side | s a step")
    for name, seconds in (
        {V2: ours} | {f"LightlyTrain {precision}": each for precision, each in theirs.items()}
    ).items():
        print(f"DINOv2, S/14, 65,536 | {name} | {statistics.median(seconds):.2f}")


def _photos(folder: Path, count: int) -> Path:
    folder.mkdir()
    for index in range(count):
        noise = torch.randint(0, 256, (375, 500, 3), dtype=torch.uint8).numpy()
        Image.fromarray(noise).save(folder / f"{index}.jpg")
    return folder


def _lightly(python: str, photos: Path, precision: str) -> float:
    script = Path(__file__).parent / "peers" / "lightly_step.py"
    with tempfile.TemporaryDirectory() as out:
        words = [python, str(script), str(photos), f"{out}/run", precision]
        said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    return float(next(line for line in said.splitlines() if line.startswith("seconds ")).split()[1])


_PRODUCT = 2 * 2048**3  # operations of the product that MFU is relative to


def _serve(side: str, model: str, prototypes: str, batch: str) -> None:
    """Take one step for each line on standard input."""
    torch.manual_seed(0)
    if side == "product":
        dtype = torch.bfloat16 if devices.settled(CPU, "auto") == "bf16" else torch.float32
        left, right = torch.randn(2, 2048, 2048).to(dtype)
        answer(lambda: left @ right)
    elif side.startswith("plain"):
        answer(_plain(model, int(prototypes), int(batch), bf16="bf16" in side))
    elif side == V2:
        answer(_ours(_sized(recipes.find("dinov2-vits14"), int(prototypes), int(batch))))
    else:
        config = recipes.find("dinov3-vits16")
        backbone = replace(MODELS[model], drop_path=0.3)
        config = replace(config, experiment=replace(config.experiment, backbone=backbone))
        answer(_ours(_sized(config, int(prototypes), int(batch), SIDES[side])))


def _sized(config: TrainConfig, prototypes: int, batch: int, settings: Mapping[str, Any] = NOTHING) -> TrainConfig:
    common = {
        "experiment.data.batch_size": batch,
        "experiment.objectives.koleo.group": None,
        "experiment.objectives.dino.head.prototypes": prototypes,
        "experiment.objectives.ibot.head.prototypes": prototypes,
    }
    return override(config, common | dict(settings))


def _views(batch: int, *, patches: int, local: int) -> Views:
    masks = torch.zeros(2, batch, patches, dtype=torch.bool)
    masks[0, :, torch.randperm(patches)[:HIDDEN]] = True
    return Views(torch.randn(2, batch, 3, 224, 224), torch.randn(8, batch, 3, local, local), masks)


def _ours(config: TrainConfig) -> Callable[[], object]:
    experiment = config.experiment
    patches = (224 // experiment.backbone.patch_size) ** 2
    views = _views(experiment.data.batch_size, patches=patches, local=experiment.data.views.local_size)
    trainer = Trainer(experiment, CPU, recompute=config.runtime.recompute)
    steps = iter(range(10**6))
    return lambda: trainer.step([views], step=next(steps))


def _plain(model: str, prototypes: int, batch: int, *, bf16: bool) -> Callable[[], object]:
    from peers.plain_step import Step

    backbone = MODELS[model]
    step = Step(
        dim=backbone.dim,
        depth=backbone.depth,
        heads=backbone.heads,
        patch=backbone.patch_size,
        prototypes=prototypes,
        bf16=bf16,
    )
    views = _views(batch, patches=(224 // backbone.patch_size) ** 2, local=96)
    return lambda: step(views.global_crops, views.local_crops, views.masks)


def _operations(model: str, prototypes: int, batch: int) -> int:
    """Count the operations of the work that has to be done: one step of the plain form."""
    with FlopCounterMode(display=False) as counter:
        _plain(model, prototypes, batch, bf16=False)()
    return int(counter.get_total_flops())


if __name__ == "__main__":
    main()
