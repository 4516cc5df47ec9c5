"""A suite, cell by cell: every line of its table on every set that is there, for every model.

OUT/results.json is written after each cell, so that a kill costs one. A cell carries its stamp - digests of weights and
data, and all settings - and is computed again only if that changed; so a further model costs its own column. What fails
is one line in its cell, and is tried again by the next start. Beside the table lies all that a cell found:
OUT/cells/MODEL/TASK-SET.json.
"""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from dinokit import config as configuration
from dinokit.core.files import check_same, check_writable, digest, only_owner, read_json, write_json, write_text
from dinokit.core.messages import UserError, duration, info, line_of, listed
from dinokit.evaluation import base
from dinokit.sources import published
from dinokit.suites import columns, papers, table
from dinokit.suites.columns import Column
from dinokit.suites.found import Found
from dinokit.suites.table import WANTS, Line
from dinokit.visuals import scores
from dinokit.visuals.suite import write_page

RESULTS = "results.json"
CHOSEN = (
    "best_k",
    "C",
    "lr",
    "weight_decay",
    "blocks",
    "mean_patch",
    "layer",
    "norm",
    "tau",
    "K",
    "T",
)  # numbers that were chosen and measure nothing
Cell = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """A line of the suite on a set, and the further sets that its head is measured on."""

    line: Line
    data: Found
    tests: tuple[Found, ...]
    digest: str  # of the data

    @property
    def config(self) -> Any:
        """The settings of the evaluation."""
        module, settings = base.find(self.line.task), dict(self.line.settings)
        settings |= {"tests": [one.source for one in self.tests]} if self.tests else {}
        return configuration.override(module.Config(data=self.data.source), settings)

    def stamp(self, about: Mapping[str, Any], config: Any) -> dict[str, Any]:
        """Return all that the numbers of a cell follow from."""
        seen = {name: about[name] for name in ("weights", "patch", "side", "dim")}
        names = {"tests": [one.name for one in self.tests]} if self.tests else {}
        settings = {**configuration.to_plain(config), "data": self.data.name, **names}
        return {**seen, "task": self.line.task, "settings": settings, "data": self.digest}


def run(
    suite: str, sets: Sequence[Found], models: Sequence[Column], out: Path, *, tokens: int | None
) -> dict[str, Any]:
    """Measure what is not measured yet, and return what OUT/results.json then says.

    Raises:
        UserError: if there is nothing to measure, OUT holds results of another suite, or not one number could be had.
    """
    lines = table.find(suite)
    if not models:
        raise UserError("no model was given; name some with --models")
    if not _jobs(lines, sets):
        for line in missing(lines, sets):
            info(f"missing: {line}")
        there = listed([f"{one.name} ({one.kind})" for one in sets]) or "nothing"
        raise UserError(f"nothing of the suite '{suite}' is in the data, which holds {there}; add what is missing")
    check_writable(out)
    with only_owner(out):
        results = _begun(out, suite, tokens)
        jobs = _jobs(lines, sets)
        results["missing"] = missing(lines, sets)
        for one in sets:
            kinds = [other.kind for other in sets if other.name == one.name]
            results["sets"][one.name] = {"kinds": kinds, "source": one.source}
        count, total = 0, len(jobs) * len(models)
        for column in models:
            said = set[str]()
            for job in jobs:
                count += 1
                _settle(results, column, job, out, place=f"[{count}/{total}]", said=said)
            column.forget()
        for name, short in columns.shown(results["models"]).items():
            results["models"][name] |= {"shown": short, "baseline": name in columns.BASELINES}
        titles = [line.title for line in lines]
        results["cells"].sort(key=lambda cell: titles.index(cell["task"]) if cell["task"] in titles else len(titles))
        results["models"] = dict(sorted(results["models"].items(), key=lambda each: each[0] in columns.BASELINES))
        write_json(out / RESULTS, results)
        write_text(out / scores.FILE, scores.markdown(results))
        write_page(results, out)
    if not any("numbers" in cell for cell in results["cells"]):
        raise UserError(f"nothing could be measured: {next(cell['error'] for cell in results['cells'])}")
    return results


def missing(lines: Sequence[Line], sets: Sequence[Found]) -> list[str]:
    """Say which data the lines of a suite want that are not there, and how they would lie."""
    said = dict[str, None]()  # in their order, each once
    for line in lines:
        for name in (*line.sets, *line.tests):
            kind = "robustness" if name in line.tests else line.kind
            if not any(one.name == name and one.kind == kind for one in sets):
                known = published.SETS.get(name)
                expected = WANTS[line.kind][1] if known is None else f"{name}/ with {known.layout}"
                said[f"{name} ({line.task}): {expected}"] = None
        if not line.sets and not any(one.kind == line.kind for one in sets):
            what, expected = WANTS[line.kind]
            said[f"{what} ({line.task}): {expected}"] = None
    return list(said)


def _begun(out: Path, suite: str, tokens: int | None) -> dict[str, Any]:
    """Return the results that are there, or none yet."""
    fresh: dict[str, Any] = {"suite": suite, "tokens": tokens, "missing": [], "sets": {}, "models": {}, "cells": []}
    path = out / RESULTS
    if not path.exists():
        return fresh
    try:
        kept = read_json(path)
    except UserError as error:
        raise UserError(f"{error}; move it away, or give another folder") from error
    if not _whole(kept, fresh):
        raise UserError(f"{path} is not what a suite writes; move it away, or give another folder")
    if not any("numbers" in cell for cell in kept["cells"]):
        return fresh
    check_same({name: kept[name] for name in ("suite", "tokens")}, {"suite": suite, "tokens": tokens}, place=path)
    return {**kept}


def _whole(kept: Any, fresh: Mapping[str, Any]) -> bool:
    """Tell whether results are what `run` has written."""
    if not isinstance(kept, Mapping) or not kept.keys() >= fresh.keys():
        return False
    kinds = all(isinstance(kept[name], type(fresh[name])) for name in ("missing", "sets", "models", "cells"))
    return kinds and all(
        isinstance(cell, Mapping)
        and ({"model", "task", "set"} | ({"headline", "numbers"} if "numbers" in cell else {"error"})) <= cell.keys()
        and ("error" in cell or cell["model"] in kept["models"])
        for cell in kept["cells"]
    )


def _jobs(lines: Sequence[Line], sets: Sequence[Found]) -> list[Job]:
    """Return what the suite asks of the sets that are there; the files of each are looked at once."""
    seen = cache(Found.digest)
    found = []
    for line in lines:
        tests = tuple(one for one in sets if one.name in line.tests)
        for one in sets:
            if one.kind == line.kind and (not line.sets or one.name in line.sets):
                found.append(Job(line, one, tests, " ".join(map(seen, (one, *tests)))))
    return found


def _settle(results: dict[str, Any], column: Column, job: Job, out: Path, *, place: str, said: set[str]) -> None:
    """Take a cell as it is, or measure it and write the results.

    Args:
        said: errors of this model that need not be said again.
    """
    key = {"model": column.name, "task": job.line.title, "set": job.data.name}
    before = _cell(results, key)
    begin = time.monotonic()
    try:
        cell = {**key, **_measured(column, job, before, out)}
    except Exception as error:  # whatever is wrong with a model or a set must not cost the others
        cell = {**key, "error": line_of(error)}
    about = cell.pop("about", None)
    if about is not None and (about["side"] is not None or column.name not in results["models"]):
        results["models"][column.name] = about  # of the baselines that of images, not of patches
    if cell == before:
        return
    if "numbers" in cell:
        cell["seconds"] = round(time.monotonic() - begin, 1)
        told = f"{cell['headline']} {cell['numbers'][cell['headline']]:.2f}, {duration(cell['seconds'])}"
    else:
        told = f"failed: {cell['error']}"
    if cell.get("error") not in said:
        info(f"{place} {job.line.title} on {job.data.name}, {column.name}: {told}")
    said |= {cell["error"]} if "error" in cell else set()
    further = _parted(cell, column.name, job)
    old = [before, *(_cell(results, each) for each in further)]
    results["cells"] = [each for each in results["cells"] if not any(each is one for one in old)] + [cell, *further]
    write_json(out / RESULTS, results)


def _cell(results: Mapping[str, Any], key: Mapping[str, Any]) -> Cell | None:
    """Return the cell of a model, task and set; None if there is none yet."""
    same = (each for each in results["cells"] if all(each[name] == key[name] for name in ("model", "task", "set")))
    return next(same, None)


def _parted(cell: Cell, model: str, job: Job) -> list[Cell]:
    """Take the numbers of further sets out of a cell, and make each set a cell: `top1/imagenet-a` is a `top1`."""
    found = []
    for one in job.tests if "numbers" in cell else ():
        own: dict[str, Cell] = {}
        for part in ("numbers", "intervals"):
            own[part] = {
                name.removesuffix(f"/{one.name}"): cell[part].pop(name)
                for name in list(cell[part])
                if name.endswith(f"/{one.name}")
            }
        if own["numbers"]:
            papers_of = papers.published(model, job.line, one.name, own["numbers"])
            key = {"model": model, "task": job.line.title, "set": one.name, "head of": job.data.name}
            told = {"chosen": {}, "seed": cell["seed"], "published": papers_of, "seconds": 0.0}
            found.append({**key, **_headed(job.line.task, own["numbers"]), **own, **told})
    return found


def _headed(task: str, numbers: Mapping[str, float]) -> Cell:
    """Say which number counts, and which way."""
    name = table.headline(task, numbers)
    return {"headline": name, "lower": table.lower_is_better(name)}


def _measured(column: Column, job: Job, before: Cell | None, out: Path) -> Cell:
    """Return what a cell says beside its key: the kept one, if nothing that it follows from has changed."""
    module = base.find(job.line.task)
    backbone = column.backbone(dense=getattr(module, "PATCHES", False))
    about = columns.about(backbone)
    config = base.settled(job.config, backbone)
    stamp = job.stamp(about, config)
    if before is not None and before.get("stamp") == stamp:
        return {**before, "about": about}
    numbers, details = module.run(backbone, config, None)
    if not numbers:
        raise UserError("nothing was measured")
    name = f"{_plain(job.line.title)}-{_plain(job.data.name)}.json"
    write_json(out / "cells" / _plain(column.name) / name, numbers | details)
    return {
        **_headed(job.line.task, numbers),
        "numbers": numbers,
        "intervals": details.get("intervals", {}),
        "chosen": {name: numbers[name] for name in CHOSEN if name in numbers},
        "seed": getattr(config, "seed", None),
        "published": papers.published(column.name, job.line, job.data.name, numbers),
        "stamp": stamp,
        "about": about,
    }


def _plain(name: str) -> str:
    """Write a name so that it can be a file's; where letters had to go, with a digest of it: a/b is not a_b."""
    plain = re.sub(r"[^\w.-]+", "_", name).strip("_.")
    return plain if plain == name else f"{plain}-{digest([name])[:8]}"
