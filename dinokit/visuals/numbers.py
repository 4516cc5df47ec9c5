"""The numbers of a run's page as JSON inside the page, for whoever wants to draw them otherwise.

    {"run", "recipe", "data", "step", "steps",
     "stages": [{"name", "first", "last"}], "anchors": [{"name", "step"}],
     "curves": [{"name", "step": [...], "value": [...], "every"}],                    what was logged
     "evaluations": [{"evaluation", "model", "data", "number", "unit", "step": [...], "value": [...], "every"}],
     "results": [{"file", "evaluation", "data", "unit", "numbers": {model: {...}}, "intervals": {...}}],
     "suites": [{"file", "suite", "model", "task", "set", "number", "value", "interval"}],
     "left_out": how many curves and results did not fit}

Values are those of the files, as they are there; what is not finite is left out. A page must stay small: of a long
curve every so many points are kept, the last one among them, and `every` says how many; 1 is all of them.
"""

from collections.abc import Sequence
from typing import Any

from dinokit.visuals.course import anchor_steps, stages
from dinokit.visuals.plot import every
from dinokit.visuals.record import COUNTS, FAILED, TEACHER, Record, is_number
from dinokit.visuals.results import Result, results_of, suites_of

POINTS = 100_000  # of all curves together
CURVES = 1_500
NUMBERS = 20_000  # of all results together
Points = list[tuple[int, int | float]]


def numbers(record: Record) -> dict[str, Any]:
    """Return everything as plain values."""
    curves, evaluated = _logged(record), _evaluated(record)
    limit = _limit([len(points) for _, points in (curves + evaluated)[:CURVES]])
    results, cut = _results(results_of(record.path))
    kept = curves[:CURVES], evaluated[: max(CURVES - len(curves), 0)]
    return {
        "run": record.path.resolve().name,
        "recipe": record.setting("experiment.recipe"),
        "data": record.setting("experiment.data.source"),
        "step": record.step,
        "steps": record.steps,
        "stages": [{"name": one.name, "first": one.first, "last": one.last} for one in stages(record)],
        "anchors": [{"name": name, "step": step} for name, step in anchor_steps(record)],
        "curves": [about | _thinned(points, limit) for about, points in kept[0]],
        "evaluations": [about | _thinned(points, limit) for about, points in kept[1]],
        "results": results,
        "suites": _suites(record),
        "left_out": max(len(curves) + len(evaluated) - CURVES, 0) + cut,
    }


def _logged(record: Record) -> list[tuple[dict[str, Any], Points]]:
    found = record.curves.items()
    return [({"name": name}, list(zip(map(int, steps), values, strict=True))) for name, (steps, values) in found]


def _evaluated(record: Record) -> list[tuple[dict[str, Any], Points]]:
    """Return every number of the evaluations of the log by step; of a step that was measured again the last one."""
    found = dict[tuple[str, str, str, str], dict[int, int | float]]()
    units = dict[tuple[str, str], str]()
    for line in (line for line in record.evaluations if FAILED not in line):
        about = (str(line["evaluation"]), str(line.get("model", TEACHER)), str(line.get("data", "")))
        units[about[0], about[2]] = str(line.get("unit", "%"))
        for name, value in line.items():
            if name not in COUNTS and is_number(value):
                found.setdefault((*about, name), {})[line["step"]] = value
    names = ("evaluation", "model", "data", "number")
    return [
        (dict(zip(names, key, strict=True)) | {"unit": units[key[0], key[2]]}, sorted(points.items()))
        for key, points in found.items()
    ]


def _limit(lengths: Sequence[int]) -> int:
    """Return how many points each curve may have, so that all together are not too many."""
    left, limit = POINTS, POINTS
    for place, length in enumerate(sorted(lengths)):
        limit = left // (len(lengths) - place)
        if length > limit:
            break
        left -= length
    return max(limit, 1)


def _thinned(points: Points, limit: int) -> dict[str, Any]:
    stride, places = every(limit, len(points))
    return {"step": [points[p][0] for p in places], "value": [points[p][1] for p in places], "every": stride}


def _results(found: Sequence[Result]) -> tuple[list[dict[str, Any]], int]:
    kept, left, cut = [], NUMBERS, 0
    for one in found:
        size = sum(len(row) for row in one.numbers.values()) + len(one.intervals)
        if size > left:
            cut += 1
            continue
        left -= size
        about = {"file": one.file, "evaluation": one.evaluation, "data": one.data, "unit": one.unit.strip()}
        names = {TEACHER: one.model or TEACHER}
        rows = {names.get(model, model): row for model, row in one.numbers.items()}
        kept.append(about | {"numbers": rows, "intervals": one.intervals})
    return kept, cut


def _suites(record: Record) -> list[dict[str, Any]]:
    """Return the number of every cell that is shown."""
    return [
        {
            "file": file,
            "suite": each["suite"],
            "model": cell["model"],
            "task": cell["task"],
            "set": cell["set"],
            "number": cell["headline"],
            "value": cell["numbers"][cell["headline"]],
            "interval": cell["intervals"].get(cell["headline"]),
        }
        for file, each in suites_of(record.path)
        for cell in each["cells"]
        if "numbers" in cell
    ][: NUMBERS // 10]
