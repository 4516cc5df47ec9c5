"""Rows of whole trainings: a recipe's steps times the seconds of one, so that fewer of them show; or trained.

The product leaves out data, evaluations and checkpoints, and is of one process. What is trained, when seeds are named,
is the recipe's own command, on the pictures of DATA; its score is of its own evaluation. A recipe that begins with
small crops ("fast") is beside the one without, of which both builds have it: their steps before the Gram stage.
"""

import json
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from sides import compared

from rows.line import BUILDS, Builds, Line, said
from rows.steps import LARGE, Step

DATA = {"demo": "demo:fashion", "small-cpu": "demo:emoji"}
WANTED = "at most 0.5"
NOTHING: Mapping[str, Any] = {}


def lines(recipe: str, builds: Builds) -> Iterator[Line]:
    """Compare the time of a recipe's training."""
    steps, seconds, processor = _totals({build: (build, recipe) for build in BUILDS}, builds)
    yield Line(measured="steps", of=steps)
    yield Line(measured="steps x s", of=seconds, wanted=WANTED)
    yield Line(measured="steps x s of a processor", of=processor)
    if builds.seeds:
        yield from _whole(recipe, builds)


def fast(recipe: str, settings: Mapping[str, Any], builds: Builds) -> Iterator[Line]:
    """Compare today's fast recipe with the plain one of both builds."""
    trainings = {"old": ("old", recipe), "plain": ("today", recipe), "today": ("today", f"{recipe}-fast")}
    _, *totals = _totals(trainings, builds, settings, anchored=False)
    for measured, taken in zip(("steps x s", "steps x s of a processor"), totals, strict=True):
        share = {build: taken[build] / taken["plain"] for build in BUILDS}
        yield Line(measured=f"{measured}, of today's {recipe}: {taken['plain']:.4g}", of=share, wanted="at most 0.6")


def _totals(
    trainings: Mapping[str, tuple[str, str]],
    builds: Builds,
    settings: Mapping[str, Any] = NOTHING,
    *,
    anchored: bool = True,
) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    """Return the steps of trainings, their seconds, and those of a processor.

    Args:
        trainings: name -> build, recipe.
        anchored: whether stages with an anchor count.
    """
    counts: dict[str, int] = {}
    sides = {}
    for name, (build, recipe) in trainings.items():
        stages = json.loads(said(builds.script(build, "stage_step.py", recipe)))
        for stage, (count, held) in enumerate(stages):
            if anchored or not held:
                counts[f"{name} {stage}"] = count
                sides[f"{name} {stage}"] = Step(recipe=recipe, stage=stage, settings=settings).side(builds, build)
    found = compared(sides, rounds=builds.rounds)
    steps, seconds, processor = (dict.fromkeys(trainings, 0.0) for _ in range(3))
    for side, count in counts.items():
        name = side.split()[0]
        steps[name] += count
        seconds[name] += count * found[side].seconds
        processor[name] += count * found[side].processor
    return steps, seconds, processor


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


ROWS = {
    **{f"training {recipe}": partial(lines, recipe) for recipe in DATA},
    "fast small-cpu": partial(fast, "small-cpu", NOTHING),
    "fast vits": partial(fast, "dinov3-vits16", LARGE),
}
