"""Does `dinokit plan` say how much memory a step takes? Predicted and measured peaks of whole processes.

python benchmarks/plan.py

Each configuration is a process that takes two steps of the DINOv3 recipe on random crops, in float32 unless said
otherwise, and reports its largest resident memory. The base of a process is a constant of planning/cost.py.
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


def main() -> None:
    """Print a row per configuration; or measure one, if its name is given."""
    if len(sys.argv) > 1:
        print(_measured(sys.argv[1]))
        return
    print("configuration | predicted MB | measured MB | error")
    for name in CASES:
        config = _config(name)
        bf16 = config.experiment.precision == "bf16"
        found = plan(config.experiment, config.runtime, rate=1e11, bf16=bf16).peak / 1e6
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
