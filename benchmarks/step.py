"""Where does a step's time go? The demo recipe on this machine: making the views, and the step itself, by threads.

python benchmarks/step.py [--steps 40]
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable

import torch

from dinokit import recipes
from dinokit.data.loader import Batch, Loader
from dinokit.data.source import open_source
from dinokit.training.step import Trainer


def main() -> None:
    """Print the median time of views and step for one thread and for all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=40)
    steps = parser.parse_args().steps
    experiment = recipes.find("demo").experiment
    data = experiment.data
    loader = Loader(
        open_source("demo:fashion", channels=experiment.backbone.channels),
        data.views,
        data.masks,
        data.pixels,
        patch_size=experiment.backbone.patch_size,
        batch=data.batch_size,
        seed=0,
    )
    print(f"torch {torch.__version__} · {os.cpu_count()} cores · batch {data.batch_size}")
    print("threads | views ms | step ms | images/s")
    for threads in sorted({1, os.cpu_count() or 1}):
        torch.set_num_threads(threads)
        views, step = _measured(loader, Trainer(experiment, torch.device("cpu")), steps)
        print(f"{threads} | {1e3 * views:.1f} | {1e3 * step:.1f} | {data.batch_size / (views + step):.0f}")


def _measured(loader: Loader, trainer: Trainer, steps: int) -> tuple[float, float]:
    """Return the median seconds of making the views of a step and of the step."""
    batches: list[Batch] = []
    views = _median(lambda step: batches.append(loader.build(step)), steps)
    return views, _median(lambda step: trainer.step([batches[step].views], step=step), steps)


def _median(run: Callable[[int], object], steps: int) -> float:
    seconds = []
    for step in range(steps):
        began = time.perf_counter()
        run(step)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[2:])  # the first calls also allocate


if __name__ == "__main__":
    main()
