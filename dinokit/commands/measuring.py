"""What is measured of a run's saved teachers: which evaluations, of what, and what the log says of it.

    {"step": 100, "evaluation": "knn", "model": "teacher", "top1@20": 84.2, ...}    a line of metrics.jsonl
    {"step": 100, "evaluation": "segmentation", "model": "teacher", "failed": "CUDA out of memory"}

The teacher before the first step stands for the untrained network, and the pixels themselves are measured with it. A
line has `data` if that is other than the training's images, `unit` if its first number is no percentage, and
`interval`, the ends of the 95 % bootstrap of that number, if the evaluation gives it. Whatever fails is such a line,
and the training goes on.

    python -m dinokit.commands.measuring RUN STEP DEVICE TASKS     what a process beside the training does (beside.py)
"""

import json
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from dinokit.checkpoints.load import load
from dinokit.checkpoints.store import RunFolder
from dinokit.core import child
from dinokit.core import device as devices
from dinokit.core.files import append_jsonl, read_jsonl
from dinokit.core.messages import RunError, UserError, info, line_of, warn
from dinokit.core.stopping import SIGNALS
from dinokit.evaluation import base as evaluations
from dinokit.features.extraction import forgotten
from dinokit.sources import location
from dinokit.sources.source import Source, open_source
from dinokit.training.config import AUTO, TrainConfig
from dinokit.visuals.plot import written
from dinokit.visuals.record import FAILED, INTERVAL, PIXELS, RANDOM, TEACHER, first_number

MEASURED = 20_000  # images of each side, at most; `dinokit evaluate` takes all
SHARE = 1 / 8  # of a GPU's memory, for what is measured beside the training
LABELS = {"knn": "k-NN (k = 20)", "retrieval": "retrieval mAP"}

Line = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """An evaluation of one network on some data."""

    evaluation: str
    model: str  # teacher, random-init, raw-pixels
    source: str
    own: bool  # the source is other than the training's images

    def line(self, step: int, **found: Any) -> Line:
        """Return what the log says of it."""
        about = {"data": self.source} if self.own else {}
        return {"step": step, "evaluation": self.evaluation, "model": self.model} | about | found

    def settings(self) -> Any:
        """Return settings for minutes, not hours: the quick protocol if there is one, and not too many images."""
        module = evaluations.find(self.evaluation)
        names = {field.name for field in fields(module.Config)}
        # ImageNet against itself at every checkpoint would take longer than the training in between
        few = {} if getattr(module, "PATCHES", False) else {"limit": MEASURED}
        less = {"protocol": evaluations.QUICK} | few
        return module.Config(data=self.source, **{name: value for name, value in less.items() if name in names})


@dataclass(frozen=True)
class Asked:
    """What a run measures of its teachers."""

    evaluations: tuple[tuple[str, str], ...] = ()  # name, source: of the run if it is empty
    training: str = ""  # source of the run
    beside: bool = False  # by a process of its own
    why_not: str = ""  # nothing is measured

    def tasks(self, step: int) -> list[Task]:
        """List what is to be measured of the teacher of a step."""
        models = (TEACHER,) if step else (RANDOM, PIXELS)
        return [
            Task(name, model, source or self.training, bool(source))
            for name, source in self.evaluations
            for model in models
        ]

    @property
    def first(self) -> str:
        """The evaluation by which the best teacher is chosen."""
        return self.evaluations[0][0] if self.evaluations else ""


def check_tasks(config: TrainConfig, run: RunFolder) -> None:
    """Refuse, before any work, tasks and data that cannot be; data that goes later is only not measured."""
    wanted = config.runtime.eval
    for name in wanted.tasks if wanted.tasks != AUTO else ():
        evaluations.find(name)
        source = wanted.source(name)
        patches = getattr(evaluations.find(name), "PATCHES", False)
        if not source and not patches and not config.experiment.data.labels:
            raise UserError(
                f"eval.tasks {name} asks for classes, and by data.labels these images have none; name others by "
                "eval.data"
            )
    for source in {wanted.source(name) for name in wanted.tasks} - {""}:
        plain = not (location.prefix(source) or location.is_remote(source) or location.is_pattern(source))
        if plain and not Path(source).exists() and not run.steps():
            raise UserError(f"eval.data: there is no {source}")


def asked(config: TrainConfig, images: Source) -> Asked:
    """Return what is measured of the teachers; with `auto` by what the images tell."""
    wanted, training = config.runtime.eval, config.experiment.data.source
    if not wanted.tasks:
        return Asked(why_not="not measured (runtime.eval.tasks is empty)")
    if wanted.tasks != AUTO:
        return Asked(tuple((name, wanted.source(name)) for name in wanted.tasks), training, beside=True)
    source = wanted.source(*AUTO)
    try:
        seen = open_source(source, channels=config.experiment.backbone.channels) if source else images
    except UserError as error:
        warn(f"eval.data: {error}")
        return Asked(why_not="not measured: see the warning above")
    if seen.labels is None or len(seen.classes) < 2:
        return Asked(why_not=f"no labels in {seen.name}: nothing to measure; look at the pictures")
    return Asked((("knn" if seen.domains is None else "retrieval", source),), training)


def missing(lines: Iterable[Line], tasks: Iterable[Task], step: int) -> list[Task]:
    """Return the tasks of a step that the log has no result of."""
    done = {_key(line) for line in lines if line.get("step") == step and FAILED not in line}
    return [task for task in tasks if _key(task.line(step)) not in done]


def _key(line: Mapping[str, Any]) -> tuple[Any, ...]:
    return line.get("evaluation"), line.get("model"), line.get("data")


def measured(folder: Path, step: int, tasks: Sequence[Task], device: torch.device) -> Iterator[tuple[Line, bool]]:
    """Yield the line of each task, and whether its failure has to do with the task and its data, not with this step.

    Nothing that fails here is worth the end of a training: neither memory that is lacking nor a mistake of ours.
    """
    backbone = None
    for task in tasks:
        try:
            backbone = load(folder).to(device) if backbone is None else backbone
        except Exception as error:
            yield task.line(step, **{FAILED: _reason(error)}), False
            continue
        try:
            network = backbone
            if task.model == PIXELS:
                dense = getattr(evaluations.find(task.evaluation), "PATCHES", False)
                network = evaluations.baselines(backbone, dense=dense)[PIXELS].to(device)
            with forgotten():
                numbers, details = evaluations.measured(task.evaluation, network, task.settings())
        except Exception as error:
            yield task.line(step, **{FAILED: _reason(error)}), isinstance(error, UserError)
            continue
        yield task.line(step, **numbers, **_about(task.evaluation, first_number(numbers), details)), False


def _about(evaluation: str, first: str, details: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the log says of an evaluation's first number: its unit, if not percent, and its interval."""
    unit, ends = unit_of(evaluation, first), details.get("intervals", {}).get(first)
    return ({} if unit == "%" else {"unit": unit}) | ({} if ends is None else {INTERVAL: list(ends)})


def _reason(error: Exception) -> str:
    said = line_of(error)
    return said if isinstance(error, UserError | RunError) else f"{type(error).__name__}: {said}"


def unit_of(evaluation: str, number: str) -> str:
    """Return the unit of a number of an evaluation."""
    units: Mapping[str, str] = getattr(evaluations.find(evaluation), "UNITS", {})
    return next((unit for name, unit in units.items() if number.startswith(name)), "")


def measure_here(run: RunFolder, step: int, tasks: Sequence[Task], device: torch.device) -> None:
    """Measure what is missing of a step now, while the training waits."""
    left = missing(read_jsonl(run.metrics), tasks, step)
    if step == 0 and left:
        models = " and ".join(task.model for task in left)
        info(f"step 0 · measuring {models} ({left[0].evaluation} of the data), to compare with")
    for line, _ in measured(run.checkpoint(step), step, left, device):
        append_jsonl(run.metrics, line)
        if FAILED in line:
            warn(f"step {step} is not measured: {line[FAILED]}")
            return
    info(f"step {step} · {headline(read_jsonl(run.metrics), tasks[0])}")


def headline(lines: Iterable[Line], task: Task) -> str:
    """Say the newest result of an evaluation and its baselines in one line; nothing if nothing was measured."""
    newest: dict[str, Line] = {}
    for line in lines:
        same = (line.get("evaluation"), line.get("data")) == (task.evaluation, task.line(0).get("data"))
        model = str(line.get("model"))
        if same and FAILED not in line and line["step"] >= newest.get(model, line)["step"]:
            newest[model] = line
    order = [model for model in (TEACHER, RANDOM, PIXELS) if model in newest]
    if not order:
        return ""
    number = first_number(newest[order[0]])
    unit = f" {newest[order[0]].get('unit', '%')}".rstrip()
    label = LABELS.get(task.evaluation, f"{task.evaluation} {number}")
    known = [model for model in order if number in newest[model]]
    values = (f"{model} {written(newest[model][number], unit)}" for model in known)
    return f"{label}: " + ", ".join(values)


def main() -> None:
    """Measure some tasks of one teacher in this process, and write a line of JSON per task to standard output."""
    run, step, device, plain = sys.argv[1:]
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # the training answers them
    child.follow()
    results = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what else is printed is no result
    where = devices.choose(device)
    if where.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(SHARE, where)
    tasks = [Task(**each) for each in json.loads(plain)]
    for line, hopeless in measured(RunFolder(Path(run)).checkpoint(int(step)), int(step), tasks, where):
        print(json.dumps([line, hopeless]), file=results, flush=True)


def words_of(tasks: Sequence[Task]) -> str:
    """Write tasks as `main` reads them."""
    return json.dumps([asdict(task) for task in tasks])


if __name__ == "__main__":
    main()
