"""What a run left in its folder, read back: settings, machine, log, measurements, bad images, checkpoints.

Everything may be missing or cut short: a run can be interrupted at any moment and must still be shown.
"""

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dinokit.checkpoints.store import RunFolder
from dinokit.config import read_yaml
from dinokit.core.errors import UserError
from dinokit.core.files import read_jsonl

TEACHER, RANDOM, PIXELS = "teacher", "random-init", "raw-pixels"

EARLY = 0.15  # of the run: where the middle picture is taken from


@dataclass(frozen=True)
class Record:
    """A run as its files tell it."""

    path: Path
    config: Mapping[str, Any]
    config_text: str
    environment: Mapping[str, Any]
    log: tuple[Mapping[str, Any], ...]  # one entry per logged step, ascending
    evaluations: tuple[Mapping[str, Any], ...]  # in the order they were measured
    bad_images: tuple[Mapping[str, Any], ...]
    checkpoints: Mapping[int, Path]  # step -> folder with the teacher's weights

    def setting(self, path: str) -> Any:
        """Return the value at a dotted path of the settings, None if there is none."""
        value: Any = self.config
        for key in path.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    @property
    def step(self) -> int:
        """The last step that the log or a checkpoint knows of."""
        return max([line["step"] for line in self.log] + list(self.checkpoints), default=0)

    @property
    def steps(self) -> int | None:
        """Steps of all stages, as far as the settings tell."""
        stages = self.setting("experiment.stages")
        each = [stage.get("steps") for stage in stages.values()] if isinstance(stages, Mapping) else []
        counts = [self.setting("experiment.steps"), *each]
        return sum(counts) if all(isinstance(count, int) for count in counts) else None

    @property
    def finished(self) -> bool:
        """Whether all steps are done, as far as the settings tell."""
        return self.steps is None or self.step >= self.steps

    @property
    def seconds(self) -> float | None:
        """Training time at the last logged step."""
        times = [line["time"] for line in self.log if isinstance(line.get("time"), int | float)]
        return float(times[-1]) if times else None

    @property
    def verdict(self) -> str:
        """What the run last said of its health; empty if it said nothing."""
        said = [line["verdict"] for line in self.log if isinstance(line.get("verdict"), str)]
        return str(said[-1]) if said else ""

    def curve(self, name: str) -> tuple[list[float], list[float]]:
        """Return steps and values of one logged quantity, finite values only."""
        points = [
            (line["step"], line[name])
            for line in self.log
            if isinstance(line.get(name), int | float) and math.isfinite(line[name])
        ]
        return [float(step) for step, _ in points], [float(value) for _, value in points]

    def quantities(self) -> list[str]:
        """List what was logged, in the order it first appeared."""
        names = dict.fromkeys(name for line in self.log for name in line)
        return [name for name in names if name not in ("step", "time") and self.curve(name)[0]]

    def stages(self) -> list[int]:
        """Return the steps to show side by side: untrained, early, newest; fewer if there are fewer."""
        steps = sorted(self.checkpoints)
        if len(steps) < 3:
            return steps
        early = min(steps[1:-1], key=lambda step: abs(step - EARLY * steps[-1]))
        return [steps[0], early, steps[-1]]


def read_record(run: Path) -> Record:
    """Read a run folder.

    Raises:
        UserError: if the folder is no run.
    """
    folder = RunFolder(run)
    if not folder.config.is_file():
        raise UserError(f"expected a run folder with config.yaml, got {run}; give the --out of a pretrain command")
    config = read_yaml(folder.config)
    environment: Any = {}
    with suppress(OSError, ValueError):  # a run that was just begun has none, a torn one says nothing
        environment = json.loads(folder.environment.read_text(encoding="utf-8"))
    lines = [line for line in read_jsonl(folder.metrics) if isinstance(line.get("step"), int)]
    log = {line["step"]: line for line in lines if "evaluation" not in line}  # the last line of a step counts
    return Record(
        path=run,
        config=config if isinstance(config, dict) else {},
        config_text=folder.config.read_text(encoding="utf-8"),
        environment=environment if isinstance(environment, dict) else {},
        log=tuple(log[step] for step in sorted(log)),
        evaluations=tuple(line for line in lines if "evaluation" in line),
        bad_images=tuple(read_jsonl(folder.bad_images)),
        checkpoints={step: folder.checkpoint(step) for step in folder.steps()},
    )
