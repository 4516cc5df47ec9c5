"""What a run left in its folder, read back: settings, machine, log, bad images, checkpoints; its result, in words too.

Everything may be missing or cut short: a run can be interrupted at any moment and must still be shown.
"""

import math
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard

from dinokit.checkpoints.store import RunFolder
from dinokit.config import read_yaml
from dinokit.core.files import read_json, read_jsonl
from dinokit.core.messages import UserError
from dinokit.visuals.plot import PERCENT, written

TEACHER, RANDOM, PIXELS = "teacher", "random-init", "raw-pixels"
NAMES = {TEACHER: "trained", PIXELS: "raw pixels", RANDOM: "untrained"}
TITLES = {"knn": "k-NN accuracy", "retrieval": "Retrieval mAP"}
DENSE = (
    "segmentation",
    "depth",
    "detection",
    "foreground",
    "tracking",
    "matching",
    "discovery",
)  # evaluations of patches
COUNTS = ("step", "time", "queries", "gallery", "images", "best_k", "leaks")  # of a line, no results
INTERVAL = "interval"  # of a line: ends of the 95 % bootstrap of the number that is followed
FAILED = "failed"  # of a line: why there is no result
_OF_K = re.compile(r"(top1|per-class|mAP)@\d+")  # numbers of k-NN by which a set is measured
LARGEST = 1e300
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
    anchor: Mapping[str, Any]  # what a stage chose its anchor from; empty if none did
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
        times = [float(line["time"]) for line in self.log if isinstance(line.get("time"), int | float)]
        return times[-1] if times else None

    @property
    def verdict(self) -> str:
        """What the run last said of its health; empty if it said nothing."""
        return next((line["verdict"] for line in reversed(self.log) if isinstance(line.get("verdict"), str)), "")

    @cached_property
    def curves(self) -> Mapping[str, tuple[list[float], list[float]]]:
        """Steps and values of every logged quantity, in the order they first appeared; finite values only."""
        found = dict[str, tuple[list[float], list[float]]]()
        for line in self.log:
            for name, value in line.items():
                if name not in ("step", "time") and is_number(value):
                    steps, values = found.setdefault(name, ([], []))
                    steps.append(float(line["step"]))
                    values.append(float(value))
        return found

    def curve(self, name: str) -> tuple[list[float], list[float]]:
        """Return steps and values of one logged quantity; of an unknown one none."""
        return self.curves.get(name, ([], []))

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
    lines = [line for line in read_jsonl(folder.metrics) if isinstance(line.get("step"), int)]
    log = {line["step"]: line for line in lines if "evaluation" not in line}  # the last line of a step counts
    return Record(
        path=run,
        config=config if isinstance(config, dict) else {},
        config_text=folder.config.read_text(encoding="utf-8"),
        environment=folder.started(),
        log=tuple(log[step] for step in sorted(log)),
        evaluations=tuple(line for line in lines if "evaluation" in line),
        bad_images=tuple(read_jsonl(folder.bad_images)),
        anchor=_read(folder.anchor),
        checkpoints={step: folder.checkpoint(step) for step in folder.steps()},
    )


def is_number(value: object) -> TypeGuard[int | float]:
    """Tell whether something that a log holds can be drawn: NaN, infinities and integers beyond all bounds cannot."""
    return isinstance(value, int | float) and abs(value) < LARGEST


def _read(path: Path) -> Mapping[str, Any]:
    """Read a file of settings that may be missing or damaged."""
    with suppress(UserError):
        content = read_json(path)
        return content if isinstance(content, dict) else {}
    return {}


@dataclass(frozen=True)
class Measurement:
    """One evaluation over the run: a number per measured step, and the two baselines."""

    evaluation: str
    metric: str  # the key in the log, such as top1@20
    title: str  # for people
    steps: tuple[int, ...]
    values: tuple[float, ...]  # of the teacher
    intervals: tuple[tuple[float, float], ...]  # of each value; empty unless all are known
    baselines: Mapping[str, float]  # random-init, raw-pixels, as far as measured
    queries: int | None  # images that were asked
    data: str = ""  # what it was measured on; empty: the training's images
    unit: str = PERCENT  # as it stands behind a value

    @property
    def name(self) -> str:
        """The evaluation, for people."""
        return TITLES.get(self.evaluation, self.evaluation) + (f" on {self.data}" if self.data else "")

    @property
    def rises(self) -> bool:
        """Whether more is better: a share of what is right, and no error."""
        return self.unit == PERCENT

    @property
    def noise(self) -> float:
        """One standard error of the final value in percent points, for images drawn independently.

        Exact for an accuracy, an upper bound for an average precision; 0.5 if the number of images is unknown. Of an
        error 0.
        """
        if not self.rises:
            return 0.0
        share = min(max(self.values[-1] / 100, 0.0), 1.0)
        return 100 * math.sqrt(share * (1 - share) / self.queries) if self.queries else 0.5

    def written(self, value: float) -> str:
        """Write a value for a person."""
        return written(value, self.unit)


def measurements(lines: Iterable[Mapping[str, Any]]) -> list[Measurement]:
    """Group the evaluation lines of a run's log by evaluation; those without a trained value are left out."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for line in lines:
        groups.setdefault(_kind(line), []).append(line)
    found = [one for (name, data), group in groups.items() if (one := _measurement(name, data, group)) is not None]
    return sorted(found, key=lambda one: (one.evaluation != "knn", one.evaluation))


def failures(lines: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """List the lines of what failed and was not made good since."""
    found: dict[object, Mapping[str, Any]] = {}
    for line in lines:
        found[(*_kind(line), line.get("model"), line["step"])] = line
    return [line for line in found.values() if FAILED in line]


def _kind(line: Mapping[str, Any]) -> tuple[str, str]:
    return str(line["evaluation"]), str(line.get("data", ""))


def sentence(result: Measurement) -> str:
    """Say what the final value is worth."""
    final, comparisons, below = result.values[-1], list[str](), list[str]()
    for name, whose in ((PIXELS, "raw pixels"), (RANDOM, "the same model untrained")):
        if name in result.baselines:
            points = final - result.baselines[name]
            size = f"{abs(points):.1f} points" if result.rises else result.written(abs(points))
            how = f"{size} {'above' if points > 0 else 'below'}"
            how = "level with" if abs(points) <= result.noise else how
            comparisons.append(f"{how} {whose} ({result.written(result.baselines[name])})")
            below += [name] if (points if result.rises else -points) < -result.noise else []
    if not comparisons:
        return f"{result.title} {result.written(final)}. No baseline was measured, so this number stands alone."
    text = f"{result.title} {result.written(final)}: {' and '.join(comparisons)}."
    if PIXELS in below:
        text += " On this data, comparing the pixels themselves still works better than these features."
    elif RANDOM in below:
        text += " Training has made the features worse than chance weights; see the loss curves for a collapse."
    return text


def first_number(line: Mapping[str, Any]) -> str:
    """Return the number of a line that is followed: of k-NN that of k = 20 or the nearest, else mAP, else the first.

    Empty if there are but counts.
    """
    names = [name for name, value in line.items() if isinstance(value, float | int) and name not in COUNTS]
    of_k = [name for name in names if _OF_K.fullmatch(name)]
    others = ["mAP"] if "mAP" in names else names
    return next(iter(sorted(of_k, key=lambda name: abs(int(name.split("@")[1]) - 20)) or others), "")


def _interval(line: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return the ends of the interval of a line's first number, if it has one."""
    match line.get(INTERVAL):
        case [int() | float() as low, int() | float() as high]:
            return float(low), float(high)
    return None


def _measurement(name: str, data: str, lines: list[Mapping[str, Any]]) -> Measurement | None:
    """Follow one number over the run."""
    metric = first_number({key: value for line in lines for key, value in line.items()})
    curve, measured, unit = dict[int, float](), dict[str, float](), PERCENT
    ends = dict[int, tuple[float, float] | None]()
    for line in lines if metric else ():
        model = str(line.get("model", TEACHER))
        if model == TEACHER and is_number(line.get(metric)):
            curve[int(line["step"])] = float(line[metric])
            ends[int(line["step"])] = _interval(line)
            unit = f" {line['unit']}".rstrip() if "unit" in line else PERCENT
        elif is_number(line.get(metric)):
            measured[model] = float(line[metric])
    if not curve:
        return None
    curve = dict(sorted(curve.items()))
    if 0 in curve:
        measured.setdefault(RANDOM, curve[0])  # the teacher before its first step is the untrained model
    known = [pair for step in curve if (pair := ends[step]) is not None]
    asked = [line.get("queries") or line.get("test") for line in lines]  # k-NN's word, and that of what learns
    queries = [int(count) for count in asked if count]
    detail = f" (k = {metric.split('@')[1]})" if _OF_K.fullmatch(metric) else ""
    detail += f" on {data}" if data else ""
    return Measurement(
        evaluation=name,
        metric=metric,
        title=TITLES.get(name, f"{name} {metric}") + detail,
        steps=tuple(curve),
        values=tuple(curve.values()),
        intervals=tuple(known) if len(known) == len(curve) else (),
        baselines={name: measured[name] for name in (PIXELS, RANDOM) if name in measured},
        queries=queries[-1] if queries else None,
        data=data,
        unit=unit,
    )
