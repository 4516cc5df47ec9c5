"""Do students learn more from a teacher than from themselves? k-NN of two students, distilled and from scratch.

    python benchmarks/distil.py OUT --teachers runs/demo-0 runs/demo-1 runs/demo-2 [--steps 600] [--jobs 2]

Every teacher is a run of the recipe `demo`; its seed is that of all that is compared with it, unless others are given.
Two students learn in one distillation, and each once more alone by the recipe's own pretraining: the same images,
crops, batch, number of steps and schedules. `--same` gives those that learn alone the settings of students too.
"""

import argparse
import statistics
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from dinokit.checkpoints.load import load
from dinokit.config import from_plain, override, read_yaml
from dinokit.core.numbers import cosine
from dinokit.evaluation import base as evaluations
from dinokit.evaluation import knn
from dinokit.models import vit
from dinokit.recipes.distilled import quicker
from dinokit.run import engine
from dinokit.training.config import Experiment, ObjectiveConfigs, TrainConfig
from dinokit.training.course import Distillation, Students

HALVES = ("experiment", "runtime")
SIZES: Mapping[str, Mapping[str, Any]] = {
    "narrow": {"dim": 48, "heads": 1, "ffn_hidden": 96},
    "shallow": {"dim": 64, "depth": 2, "heads": 2, "ffn_hidden": 128},
}


def main() -> None:
    """Print a row per student."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--teachers", type=Path, nargs="+", required=True)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="*", help="of all that learns; otherwise those of the teachers")
    parser.add_argument("--same", action="store_true")
    args = parser.parse_args()
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        jobs = [
            pool.submit(compared, run, args.out / f"{run.name}-{seed}", seed=seed, steps=args.steps, same=args.same)
            for run in args.teachers
            for seed in args.seeds or [None]
        ]
        found = [job.result() for job in jobs]
    print("network | k-NN, k = 20, mean (each teacher)")
    for name in found[0]:
        values = [each[name] for each in found]
        print(f"{name} | {statistics.mean(values):.2f} ({', '.join(f'{value:.2f}' for value in values)})")


def compared(teacher: Path, out: Path, *, seed: int | None, steps: int, same: bool) -> dict[str, float]:
    """Train with one teacher and without, and measure."""
    torch.set_num_threads(1)
    run = from_plain(TrainConfig, read_yaml(teacher / "config.yaml"))
    base = shortened(run if seed is None else override(run, {"seed": seed}, hidden=HALVES), steps)
    students = {name: replace(base.experiment.backbone, **sizes) for name, sizes in SIZES.items()}
    engine.pretrain(learning(base, teacher.absolute(), students), out / "distilled")
    measured = {"teacher": accuracy(teacher, base)}
    for name, network in students.items():
        engine.pretrain(alone(base, network, same=same), out / name)
        measured[f"{name}, from scratch"] = accuracy(out / name, base)
        measured[f"{name}, distilled"] = accuracy(out / "distilled" / f"{name}.safetensors", base)
    return measured


def shortened(config: TrainConfig, steps: int) -> TrainConfig:
    """Return the run with its schedules in fewer steps."""
    experiment = config.experiment
    rate = cosine(
        experiment.optim.lr.peak, experiment.optim.lr.end, steps=steps, warmup=steps // 15, hold=steps * 2 // 3
    )
    momentum = cosine(experiment.momentum.peak, experiment.momentum.end, steps=steps)
    optim = replace(experiment.optim, lr=rate)
    experiment = replace(experiment, steps=steps, optim=optim, momentum=momentum)
    quiet = {"processes": 1, "workers": 0, "checkpoint_every": steps, "eval.tasks": None, "health.every": 0}
    return override(replace(config, experiment=experiment), quiet, hidden=HALVES)


def learning(base: TrainConfig, teacher: Path, students: Mapping[str, vit.Config]) -> TrainConfig:
    """Return the distillation."""
    distil = Distillation(teacher=str(teacher), students=Students(dict(students)))
    return replace(base, experiment=replace(as_students(base.experiment), recipe="distil", distil=distil))


def alone(base: TrainConfig, network: vit.Config, *, same: bool) -> TrainConfig:
    """Return the pretraining of a student without a teacher, with the recipe's settings or those of students."""
    experiment = replace(base.experiment, backbone=network)
    return replace(base, experiment=as_students(experiment) if same else experiment)


def as_students(experiment: Experiment) -> Experiment:
    """Return the settings that `dinokit distill` makes of its teacher's."""
    objectives = ObjectiveConfigs({name: config.for_students() for name, config in experiment.objectives.items()})
    return replace(experiment, objectives=objectives, optim=quicker(experiment.optim))


def accuracy(model: Path, base: TrainConfig) -> float:
    """Return k-NN accuracy in percent."""
    return evaluations.measure("knn", load(model), knn.Config(data=base.experiment.data.source, k=(20,)))["top1@20"]


if __name__ == "__main__":
    main()
