"""What `dinokit evaluate` left inside a run's folder: numbers of the trained model, their intervals, the baselines.

    RUN/ANYWHERE.json            of `evaluate TASK --out`: the model and its baselines
    RUN/ANYWHERE/TASK.json       of `evaluate TASK --save`: the model's own numbers with their intervals
    RUN/ANYWHERE/results.json    of `evaluate suite --out`

A single evaluation is of this run if its model's name leads to the run, one of its checkpoints or their weights, or if
it has the digest of the weights of one; that of another model is told as such. Files that are none of these, or of
another version, are passed over.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from dinokit.checkpoints.load import load
from dinokit.checkpoints.store import MODEL, RunFolder, run_and_step
from dinokit.core.files import digest_of_model, read_json
from dinokit.core.messages import UserError
from dinokit.visuals import scores
from dinokit.visuals.page import details, paragraph, table, text
from dinokit.visuals.plot import PERCENT, number, written
from dinokit.visuals.record import COUNTS, DENSE, NAMES, PIXELS, RANDOM, TEACHER, first_number, is_number

SUITE, STAMP = "results.json", "evaluate.json"
MODELS = (TEACHER, PIXELS, RANDOM)
TASKS = ("knn", "logreg", "linear", "attentive", "retrieval", *DENSE)
FILES, BYTES = 60, 5_000_000  # that are looked at, in all, but for those that a saved evaluation has beside its result
BESIDE = {STAMP, "detections.json", "truth.json", "mistakes.json", "head.json"}
LISTED = 60  # numbers of a result
OTHER = "another model"  # whose name no file says
FOUND = (
    "What dinokit evaluate has left in this run's folder. The interval is the 95 % bootstrap over the images or "
    "queries, where the file has one: those of --save and of suites do."
)


@dataclass(frozen=True)
class Result:
    """What an evaluation measured."""

    file: str  # below the run's folder
    evaluation: str
    data: str
    numbers: Mapping[str, Mapping[str, float]]  # by model: teacher, random-init, raw-pixels
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # of the teacher's numbers
    model: str = ""  # whose numbers stand as the teacher's; empty: the run's own

    @property
    def unit(self) -> str:
        """As it stands behind the first number: depth alone is measured by an error in metres."""
        return " m" if self.evaluation == "depth" else PERCENT


def results_of(run: Path) -> list[Result]:
    """Read all results of single evaluations below a run's folder; what two files say of one is joined.

    It is one if the trained model's numbers are the same: else the interval of one would stand beside those of another.
    """
    found = list[Result]()
    for path in _files(run):
        with suppress(UserError, KeyError, TypeError, ValueError, AttributeError):  # another program's file
            one = _result(run, path)
            if one is not None:
                same = next((place for place, known in enumerate(found) if _are_one(known, one)), None)
                if same is None:
                    found.append(one)
                else:
                    found[same] = _joined(found[same], one)
    return sorted(found, key=lambda one: (TASKS.index(one.evaluation), one.data))


def suites_of(run: Path) -> list[tuple[str, Mapping[str, Any]]]:
    """Read the results of suites below a run's folder, with their files."""
    found = []
    for path in _files(run):
        if path.name == SUITE:
            with suppress(UserError, KeyError, TypeError, ValueError, AttributeError, IndexError):
                results = read_json(path)
                _suite(results)  # one of another version cannot be told
                found.append((path.relative_to(run).as_posix(), results))
    return found


def results(run: Path) -> str:
    """Tabulate them; empty if there are none."""
    single, suites = results_of(run), suites_of(run)
    if not single and not suites:
        return ""
    parts = [paragraph(FOUND)]
    for model in sorted({one.model for one in single}):  # the run's own first
        ours = [one for one in single if one.model == model]
        head = ["Evaluation", "On", "Number", model or NAMES[TEACHER], "95 %", NAMES[PIXELS], NAMES[RANDOM], "File"]
        parts.append(table(head, (_row(one) for one in ours), kind="numbers wide"))
        whose = f" by {model}" if model else ""
        parts += [details(f"All numbers of {one.evaluation} on {one.data}{whose}", _all(one)) for one in ours]
    for file, each in suites:
        parts.append(paragraph(f"Suite {each['suite']}, {file}:") + _suite(each))
    return "".join(parts)


def _files(run: Path) -> Iterator[Path]:
    """Yield the files that may be results, not too many and not too large."""
    left, room = FILES, BYTES
    for pattern in ("*.json", "*/*.json", "*/*/*.json"):
        for path in sorted(run.glob(pattern)):
            if path.relative_to(run).parts[0] in ("checkpoints", "events") or path.name in BESIDE or left == 0:
                continue
            with suppress(OSError):
                if path.is_file() and path.stat().st_size <= room:
                    left, room = left - 1, room - path.stat().st_size
                    yield path


def _result(run: Path, path: Path) -> Result | None:
    """Read a file, if it is of a single evaluation."""
    content, file = read_json(path), path.relative_to(run).as_posix()
    if {"task", "config", "results"} <= content.keys() and content["task"] in TASKS:
        rows = content["results"]
        measured = next(name for name in rows if name not in (RANDOM, PIXELS))
        names = {TEACHER: measured, RANDOM: RANDOM, PIXELS: PIXELS}
        numbers = {model: _numbers(rows[name]) for model, name in names.items() if name in rows}
        own = _leads_to(run, measured) or _has_weights(run, content.get("weights"))
        return Result(file, content["task"], str(content["config"]["data"]), numbers, model="" if own else measured)
    if path.stem not in TASKS or not _numbers(content):
        return None
    data, own = "", True  # unless it is known to be another's
    with suppress(UserError, KeyError, TypeError):
        stamp = read_json(path.with_name(STAMP))
        data, own = str(stamp["settings"]["data"]), _has_weights(run, stamp["weights"])
    ends = {name: (float(low), float(high)) for name, (low, high) in content.get("intervals", {}).items()}
    return Result(file, path.stem, data, {TEACHER: _numbers(content)}, ends, "" if own else OTHER)


def _leads_to(run: Path, name: str) -> bool:
    """Tell whether a model's name means a run, one of its checkpoints, or their weights; from any folder above it."""
    place, run = Path(os.path.normpath(os.path.expanduser(name))), run.resolve()
    folder = run_and_step(place.parent if place.name == MODEL else place)[0].path
    if folder.is_absolute():
        return folder.resolve() == run
    parts = tuple(part for part in folder.parts if part != "..")
    return not parts or run.parts[-len(parts) :] == parts


def _has_weights(run: Path, weights: object) -> bool:
    """Tell whether a digest is that of one of a run's checkpoints, the newest first."""
    folder = RunFolder(run)
    files = (folder.checkpoint(step) / MODEL for step in reversed(folder.steps()))
    return weights is not None and any(
        weights == _digest((file, file.stat().st_mtime_ns)) for file in files if file.is_file()
    )


@cache
def _digest(written: tuple[Path, int]) -> str:
    """Return the digest of weights in a file of a time; empty of what cannot be loaded."""
    with suppress(UserError):
        return digest_of_model(load(written[0]))
    return ""


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in row.items() if is_number(value)}


def _are_one(one: Result, other: Result) -> bool:
    first, second = one.numbers[TEACHER], other.numbers[TEACHER]
    both = (first.keys() & second.keys()) - set(COUNTS)
    same = bool(both) and all(first[name] == second[name] for name in both)
    same = same and (one.model == other.model or OTHER in (one.model, other.model))
    return same and (one.evaluation, one.data) == (other.evaluation, other.data)


def _joined(one: Result, other: Result) -> Result:
    """Return what two files say of the same: the one with baselines, with the intervals of the other."""
    first, second = (one, other) if len(one.numbers) >= len(other.numbers) else (other, one)
    return replace(
        first,
        file=f"{first.file}, {second.file}",
        numbers={**second.numbers, **first.numbers},
        intervals=first.intervals or second.intervals,
        model=second.model if first.model == OTHER else first.model,
    )


def _row(one: Result) -> list[object]:
    own = one.numbers[TEACHER]
    name = first_number(own)
    values = [
        written(each[name], one.unit) if name in (each := one.numbers.get(model, {})) else "-" for model in MODELS
    ]
    ends = one.intervals.get(name)
    between = "-" if ends is None else f"{written(ends[0], one.unit)} to {written(ends[1], one.unit)}"
    return [one.evaluation, one.data or "?", name, values[0], between, *values[1:], one.file]


def _all(one: Result) -> str:
    """Tabulate the numbers of every model."""
    own = one.numbers[TEACHER]
    names = [name for name in own if name not in COUNTS]
    rows = []
    for name in names[:LISTED]:
        ends = one.intervals.get(name)
        between = "" if ends is None else f"{number(ends[0])} to {number(ends[1])}"
        values = [number(each[name]) if name in (each := one.numbers.get(model, {})) else "-" for model in MODELS]
        rows.append((name, values[0], between, *values[1:]))
    more = paragraph(f"... and {number(len(names) - LISTED)} more in {one.file}.") if len(names) > LISTED else ""
    return table(["", one.model or NAMES[TEACHER], "95 %", NAMES[PIXELS], NAMES[RANDOM]], rows, kind="numbers") + more


def _suite(results: Mapping[str, Any]) -> str:
    """Tabulate a suite, as its own page does."""
    parts = []
    for title in scores.titles(results):
        head, rows = scores.scores(results, title)
        parts.append(f"<h3>{text(title)}</h3>" + table(head, rows, kind="numbers wide"))
    if not parts:
        raise ValueError("no number")
    return "".join(parts)
