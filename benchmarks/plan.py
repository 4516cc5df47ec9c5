"""Does `dinokit plan` say how much memory a step takes? Predicted and measured peaks of whole processes.

python benchmarks/plan.py

Each configuration is a process that takes two steps of the DINOv3 recipe on random crops, in float32 unless said
otherwise, and reports its largest resident memory. The base of a process is a constant of planning/cost.py. Detectors
take two steps of `evaluate detection` on features of noise with seven boxes an image.
"""

import json
import subprocess
import sys
from typing import Any

import torch
from sides import peak_memory
from step import _views

from dinokit import recipes
from dinokit.config import override
from dinokit.dense.detr.learning import judged
from dinokit.dense.detr.matching import Objects
from dinokit.dense.detr.network import Detector, Maps
from dinokit.dense.detr.views import width_of
from dinokit.evaluation.detection import Config, chosen
from dinokit.models.architecture import ARCHITECTURES, build
from dinokit.models.features import Backbone
from dinokit.planning import detection
from dinokit.planning.plan import plan
from dinokit.training.config import TrainConfig
from dinokit.training.step import Trainer

CASES: dict[str, dict[str, Any]] = {
    "S/16, 65,536, batch 8": {},
    "S/16, 65,536, batch 8, selective": {"runtime.recompute": "selective"},
    "S/16, 65,536, batch 8, full": {"runtime.recompute": "full"},
    "S/16, 65,536, batch 8, no stochastic depth": {"experiment.backbone.drop_path": 0.0},
    "S/16, 65,536, batch 2": {"experiment.data.batch_size": 2},
    "S/16, 4,096, batch 8": {
        "experiment.objectives.dino.head.prototypes": 4096,
        "experiment.objectives.ibot.head.prototypes": 4096,
    },
    "S/16, 65,536, batch 8 in 4 parts": {"experiment.data.accumulate": 4},
    "S/16, 65,536, batch 8, bf16": {"experiment.precision": "bf16"},
    "S/16, 65,536, batch 8, bf16, full": {"experiment.precision": "bf16", "runtime.recompute": "full"},
    "B/16, 8,192, batch 4": {
        "experiment.data.batch_size": 4,
        "experiment.backbone.dim": 768,
        "experiment.backbone.heads": 12,
        "experiment.backbone.ffn_hidden": 3072,
        "experiment.objectives.dino.head.prototypes": 8192,
        "experiment.objectives.ibot.head.prototypes": 8192,
    },
}


DETECTORS: dict[str, tuple[str, dict[str, Any]]] = {
    "detector small on S/16": ("dinov3_vits16", {}),
    "detector small on B/16, batch 2": ("dinov3_vitb16", {"batch_size": 2}),
    "detector small on S/16, 300 queries, batch 2": ("dinov3_vits16", {"queries": 300, "batch_size": 2}),
    "detector dinov3 on S/16, 512 px, batch 1": ("dinov3_vits16", {"recipe": "dinov3", "size": 512, "batch_size": 1}),
}


def main() -> None:
    """Print a row per configuration; or measure one, if its name is given."""
    if len(sys.argv) > 1:
        print((_detector if sys.argv[1] in DETECTORS else _measured)(sys.argv[1]))
        return
    print("configuration | predicted MB | measured MB | error")
    for name in (*CASES, *DETECTORS):
        found = (_foreseen(name) if name in DETECTORS else _planned(name)) / 1e6
        words = [sys.executable, __file__, name]
        measured = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
        print(f"{name} | {found:,.0f} | {measured:,.0f} | {found / measured - 1:+.1%}", flush=True)


def _config(name: str) -> TrainConfig:
    common = {
        "experiment.data.batch_size": 8,
        "experiment.objectives.koleo.group": None,
        "experiment.precision": "fp32",
    }
    return override(recipes.find("dinov3-vits16"), common | CASES[name])


def _planned(name: str) -> float:
    config = _config(name)
    bf16 = config.experiment.precision == "bf16"
    return plan(config.experiment, config.runtime, rate=1e11, bf16=bf16).peak


def _foreseen(name: str) -> float:
    """Return the predicted peak of a detector's training, but for the backbone, which the step does not need."""
    backbone, recipe = _outlined(name), chosen(Config(data="COCO", **DETECTORS[name][1]))
    found = detection.plan_detector(backbone, recipe, sizes=[detection.USUAL] * 8, classes=80, rate=1e11)
    return found.peak - found.memory["backbone"]


def _outlined(name: str) -> Backbone:
    with torch.device("meta"):
        return build(ARCHITECTURES[DETECTORS[name][0]])


def _detector(name: str) -> float:
    backbone, recipe = _outlined(name), chosen(Config(data="COCO", **DETECTORS[name][1]))
    height, width = recipe.view.sides(480, 640, backbone.patch_size)
    numbers = width_of(backbone, recipe.view)
    network = Detector(recipe.sizes(width=numbers, stride=backbone.patch_size, classes=80)).train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4)
    for _ in range(2):
        maps = [torch.randn(numbers, height // 16, width // 16) for _ in range(recipe.batch_size)]
        sizes = torch.tensor([[float(width), float(height)]] * recipe.batch_size)
        corner = 200 * torch.rand(7, 2)
        there = [Objects(torch.cat([corner, corner + 100], dim=1), torch.arange(7))] * recipe.batch_size
        optimiser.zero_grad()
        judged(recipe)(network(Maps(maps, sizes)), there, 0).backward()
        optimiser.step()
    return peak_memory()


def _measured(name: str) -> float:
    torch.manual_seed(0)
    config = _config(name)
    experiment = config.experiment
    images = experiment.data.batch_size // experiment.data.accumulate
    trainer = Trainer(experiment, torch.device("cpu"), recompute=config.runtime.recompute)
    views = [_views(images, patches=14 * 14, local=96) for _ in range(experiment.data.accumulate)]
    for step in range(2):
        assert trainer.step(views, step=step).finite
    return peak_memory()


if __name__ == "__main__":
    main()
