"""Today's build against an earlier one: the same work in both, by turns, one table.

    python benchmarks/against.py OLD_PYTHON [--rows demo vits ...] [--rounds 5] [--threads 2]

OLD_PYTHON is the interpreter of an environment that has the earlier dinokit. Each side of a row is a process (sides.py)
that takes one step of a training on random crops per round; no data is loaded. Both take their default precision where
the row says none. "wanted" is of issue 23. A row of memory gives today's side recomputation, which costs it time; both
ratios of it count together.
"""

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from on_gpu.crops import views
from sides import Figure, answer, compared

from dinokit import recipes
from dinokit.config import override
from dinokit.training.config import TrainConfig
from dinokit.training.step import Trainer

CPU = torch.device("cpu")
LARGE = {
    "experiment.backbone.drop_path": 0.0,
    "experiment.data.batch_size": 8,
    "experiment.objectives.koleo.group": None,
}
HALF, FULL = {"experiment.precision": "bf16"}, {"runtime.recompute": "full"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """A training, in which stage, with which settings in both builds and in today's alone."""

    recipe: str
    stage: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    today: Mapping[str, Any] = field(default_factory=dict)
    wanted: str = ""


ROWS = {
    "demo": Row(recipe="demo", wanted="time 0.5, with the recipe"),
    "small-cpu": Row(recipe="small-cpu", wanted="time 0.5, with the recipe"),
    "small-cpu gram": Row(recipe="small-cpu", stage=1),
    "vits": Row(recipe="dinov3-vits16", settings=LARGE, wanted="time 0.88"),
    "vits bf16": Row(recipe="dinov3-vits16", settings=LARGE | HALF, wanted="time 0.88"),
    "vits memory": Row(recipe="dinov3-vits16", settings=LARGE, today=FULL, wanted="memory 0.65, time 1.03"),
    "gram": Row(recipe="dinov3-vits16", stage=1, settings=LARGE, wanted="time 0.8"),
    "gram memory": Row(recipe="dinov3-vits16", stage=1, settings=LARGE, today=FULL, wanted="memory 0.7, time 1.03"),
}  # fmt: skip


def main() -> None:
    """Print a line per row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", metavar="OLD_PYTHON", help="of an environment with the earlier build")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of each side")
    parser.add_argument("--side", help=argparse.SUPPRESS)  # one side's own process: the old build or today's
    arguments = parser.parse_args()
    if arguments.side:
        torch.set_num_threads(arguments.threads)
        answer(stepper(ROWS[arguments.rows[0]], today=arguments.side == "today"))
        return
    print(f"torch {torch.__version__}, {arguments.threads} threads, {arguments.rounds} rounds; ratios are today / old")
    print("row | s: old, today, ratio | processor's s: old, today, ratio | peak MB: old, today, ratio | wanted")
    for name in arguments.rows:
        words = [str(Path(__file__).resolve()), "old", "--rows", name, "--threads", str(arguments.threads), "--side"]
        sides = {
            "old": ["env", "-u", "PYTHONPATH", arguments.old, *words, "old"],
            "today": [sys.executable, *words, "today"],
        }
        figures = compared(sides, rounds=arguments.rounds)
        print(f"{name} | {_cells(figures['old'], figures['today'])} | {ROWS[name].wanted}", flush=True)


def _cells(old: Figure, today: Figure) -> str:
    pairs = [(old.seconds, today.seconds, 3), (old.processor, today.processor, 3), (old.memory, today.memory, 0)]
    return " | ".join(f"{was:.{digits}f}, {now:.{digits}f}, {now / was:.2f}" for was, now, digits in pairs)


def stepper(row: Row, *, today: bool) -> Callable[[], object]:
    """Return what takes the next step of a training."""
    config: TrainConfig = recipes.find(row.recipe)
    config = override(config, row.settings)
    runtime = override(config, row.today).runtime if today else config.runtime
    experiment = config.experiment.all_stages[row.stage].experiment
    torch.manual_seed(0)
    batch = views(experiment, CPU)
    trainer = Trainer(experiment, CPU, recompute=runtime.recompute)
    steps = iter(range(10**6))
    return lambda: trainer.step([batch], step=next(steps))


if __name__ == "__main__":
    main()
