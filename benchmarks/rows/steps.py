"""Rows of one training step on random crops, each build in its default precision where the row says none.

A row of memory gives today's side recomputation, which costs it time; both ratios of it count together.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sides import compared

from rows.line import BUILDS, Builds, Line, figures

LARGE = {
    "experiment.backbone.drop_path": 0.0,
    "experiment.data.batch_size": 8,
    "experiment.objectives.koleo.group": None,
}
HALF, FULL = {"experiment.precision": "bf16"}, {"runtime.recompute": "full"}


@dataclass(frozen=True, kw_only=True)
class Step:
    """A training, in which stage, with which settings in both builds and in today's alone."""

    recipe: str
    stage: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    today: Mapping[str, Any] = field(default_factory=dict)
    wanted: Mapping[str, str] = field(default_factory=dict)

    def side(self, builds: Builds, build: str) -> list[str]:
        """Return the command of a build that takes these steps."""
        settings = {**self.settings, **(self.today if build == "today" else {})}
        words = [self.recipe, "--stage", str(self.stage), "--settings", json.dumps(settings)]
        return builds.script(build, "stage_step.py", *words)


SMALLER = {"s": "at most 1.03"}  # with the memory that is wanted
STEPS = {
    "demo": Step(recipe="demo"),
    "small-cpu": Step(recipe="small-cpu"),
    "small-cpu gram": Step(recipe="small-cpu", stage=1),
    "vits": Step(recipe="dinov3-vits16", settings=LARGE, wanted={"s": "at most 0.88"}),
    "vits bf16": Step(recipe="dinov3-vits16", settings=LARGE | HALF, wanted={"s": "at most 0.88"}),
    "vits memory": Step(
        recipe="dinov3-vits16", settings=LARGE, today=FULL, wanted={"peak MB": "at most 0.65"} | SMALLER
    ),
    "gram": Step(recipe="dinov3-vits16", stage=1, settings=LARGE, wanted={"s": "at most 0.8"}),
    "gram memory": Step(
        recipe="dinov3-vits16", stage=1, settings=LARGE, today=FULL, wanted={"peak MB": "at most 0.7"} | SMALLER
    ),
}


def lines(step: Step, builds: Builds) -> Iterator[Line]:
    """Compare the steps of both builds."""
    found = compared({build: step.side(builds, build) for build in BUILDS}, rounds=builds.rounds)
    return figures(found, step.wanted)


ROWS = {name: partial(lines, step) for name, step in STEPS.items()}
