"""Rows of whole trainings: a recipe's steps times the seconds of one, so that fewer of them show; or trained.

The product leaves out data, evaluations and checkpoints, and is of one process. What is trained, when seeds are named,
is the recipe's own command, on the pictures of DATA; its score is of its own evaluation.
"""

import json
import statistics
import tempfile
from collections.abc import Iterator
from functools import partial

from sides import compared

from rows.line import BUILDS, Builds, Line, said
from rows.steps import Step

DATA = {"demo": "demo:fashion", "small-cpu": "demo:emoji"}
WANTED = "at most 0.5"


def lines(recipe: str, builds: Builds) -> Iterator[Line]:
    """Compare the time of a recipe's training."""
    stages = {build: json.loads(said(builds.script(build, "stage_step.py", recipe))) for build in BUILDS}
    sides = {
        f"{build} {stage}": Step(recipe=recipe, stage=stage).side(builds, build)
        for build in BUILDS
        for stage in range(len(stages[build]))
    }
    found = compared(sides, rounds=builds.rounds)
    steps, seconds, processor = (dict.fromkeys(BUILDS, 0.0) for _ in range(3))
    for build in BUILDS:
        for stage, count in enumerate(stages[build]):
            steps[build] += count
            seconds[build] += count * found[f"{build} {stage}"].seconds
            processor[build] += count * found[f"{build} {stage}"].processor
    yield Line(measured="steps", of=steps)
    yield Line(measured="steps x s", of=seconds, wanted=WANTED)
    yield Line(measured="steps x s of a processor", of=processor)
    if builds.seeds:
        yield from _whole(recipe, builds)


def _whole(recipe: str, builds: Builds) -> Iterator[Line]:
    taken: dict[str, list[dict[str, float]]] = {build: [] for build in BUILDS}
    with tempfile.TemporaryDirectory() as folder:
        for seed in builds.seeds:
            for build in BUILDS:
                words = ["--recipe", recipe, "--data", DATA[recipe], "--seeds", str(seed), "--json"]
                command = builds.script(build, "demo.py", *words, "--out", f"{folder}/{build}", threads=0)
                taken[build].append(json.loads(said(command)))
    scores, seconds = (
        {build: statistics.mean(each[key] for each in runs) for build, runs in taken.items()}
        for key in ("teacher", "seconds")
    )
    seeds = ", ".join(map(str, builds.seeds))
    yield Line(measured="s of training, whole", of=seconds, wanted=WANTED)
    yield Line(measured=f"score on {DATA[recipe]}, mean of seeds {seeds}", of=scores, wanted="no less")


ROWS = {f"training {recipe}": partial(lines, recipe) for recipe in DATA}
