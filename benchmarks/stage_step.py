"""Steps of a stage of a recipe on random crops: one side of benchmarks/against.py, run by an earlier build, too.

    python benchmarks/stage_step.py RECIPE
    python benchmarks/stage_step.py RECIPE --stage N [--settings JSON]

The first prints how many steps each stage has and whether it is anchored, as JSON; the second is a side, which takes
steps. No data is loaded.
"""

import argparse
import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from on_gpu.crops import views
from sides import answer

from dinokit import recipes
from dinokit.config import override
from dinokit.training.config import TrainConfig
from dinokit.training.step import Trainer

CPU = torch.device("cpu")


def main() -> None:
    """Print the steps of a recipe's stages, or take them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--stage", type=int)
    parser.add_argument("--settings", type=json.loads, default={})
    arguments = parser.parse_args()
    if arguments.stage is None:
        print(json.dumps(steps(arguments.recipe)))
        return
    answer(stepper(arguments.recipe, stage=arguments.stage, settings=arguments.settings), least=0.5)


def steps(recipe: str) -> list[tuple[int, bool]]:
    """Return how many steps each stage has, and whether an anchor holds it."""
    config: TrainConfig = recipes.find(recipe)
    stages = [stage.experiment for stage in config.experiment.all_stages]
    return [(stage.steps, stage.anchor is not None) for stage in stages]


def stepper(recipe: str, *, stage: int = 0, settings: Mapping[str, Any]) -> Callable[[], object]:
    """Return what takes the next step of a training."""
    found: TrainConfig = recipes.find(recipe)
    config = override(found, settings)
    experiment = config.experiment.all_stages[stage].experiment
    crops = experiment.data.views.variants()
    if len(crops) > 1:
        raise SystemExit(f"crops of {recipe} have {len(crops)} sizes; a step of one says nothing of the others")
    trainer = Trainer(experiment, CPU, recompute=config.runtime.recompute)  # first: it says how memory is kept
    torch.manual_seed(0)
    batch = views(experiment, CPU)
    count = iter(range(10**6))
    return lambda: trainer.step([batch], step=next(count))


if __name__ == "__main__":
    main()
