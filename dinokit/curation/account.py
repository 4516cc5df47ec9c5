"""The account of a curation: its steps, found in a folder by what each wrote last, and what became of every image.

A step is the folder itself, or one in it. The embeddings are those that a step names, or those that lie where `curate
auto` puts them, as in a folder that was moved. Every image has one fate: it is chosen, else it is dropped for a reason,
so that the numbers of all fates add up to the images of the source.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from dinokit.core.messages import UserError, listed
from dinokit.curation import cluster, dedup, retrieve
from dinokit.curation.pool import Pool
from dinokit.curation.sample import Levels, opened
from dinokit.curation.step import SELECTION, numbers_of
from dinokit.curation.stored import STAMP, abouts
from dinokit.curation.table import read_table
from dinokit.sources.base import Unusable
from dinokit.sources.rows import parquet
from dinokit.sources.selection import is_selection

AUTO = "curate.json"  # numbers of `curate auto`
SEEDS = "seeds-"  # of its selection, the components that are none of the pool
KEPT, OVER, CLUSTERED = "stays", "over the budget", "clustered"
NOT_RETRIEVED, NOT_CLUSTERED = "not retrieved", "not clustered"


@dataclass(frozen=True)
class Done:
    """A step that is done: its folder, and what its numbers say."""

    folder: Path
    told: dict[str, Any]


@dataclass(frozen=True)
class Fate:
    """What became of some images."""

    name: str
    rows: Int64[np.ndarray, " row"]  # of the pool, in ascending order
    chosen: bool


@dataclass(frozen=True)
class Account:
    """What the steps of a folder left."""

    folder: Path
    pool: Pool
    unreadable: tuple[Unusable, ...]
    dedup: Done | None
    cluster: Done | None
    retrieve: tuple[Done, ...]
    levels: Levels | None  # of the clusters
    sampled: dict[str, Int64[np.ndarray, " line"]] | None  # of a balanced choice the place, and the cluster of a level
    fates: tuple[Fate, ...]
    total: int | None  # lines of the selection of all, with seeds and what was taken several times

    @property
    def chosen(self) -> Int64[np.ndarray, " row"]:
        """The rows that are in the result, in ascending order."""
        return np.sort(
            np.concatenate([np.empty(0, dtype=np.int64), *(each.rows for each in self.fates if each.chosen)])
        )

    @property
    def steps(self) -> list[Done]:
        """All of them, in their order."""
        return [step for step in (self.dedup, *self.retrieve, self.cluster) if step is not None]

    def neighbour(self, told: object, name: str) -> Pool | None:
        """Open another pool of a step, where it stood or where `auto` puts it; None if it is gone."""
        for place in _places(told, name, self.folder):
            if (place / STAMP).is_file():
                return Pool(place)
        return None


def read_account(folder: Path) -> Account:
    """Find the steps of a folder and say what became of every image.

    Raises:
        UserError: if there is no step, there are two of one kind, or steps are none of the same embeddings.
    """
    known = {kind: list(_steps(folder, kind)) for kind in (dedup.DONE, cluster.DONE, retrieve.DONE)}
    steps = [step for each in known.values() for step in each]
    if not steps:
        wanted = f"{dedup.DONE}, {cluster.DONE} or {retrieve.DONE}"
        raise UserError(f"{folder} holds no step of dinokit curate, nor a folder that does (no {wanted})")
    same, groups = _only(known[dedup.DONE], "duplicates"), _only(known[cluster.DONE], "clusters")
    pool = _pool(folder, steps)
    levels = None if groups is None else opened(groups.folder, pool)
    sampled = _sampled(folder, levels)
    fates, total = _fates(folder, pool, same, levels, sampled, known[retrieve.DONE])
    unread = tuple(each for about in abouts(pool.folder) for each in about.unread)
    return Account(folder, pool, unread, same, groups, tuple(known[retrieve.DONE]), levels, sampled, fates, total)


def _steps(folder: Path, name: str) -> Iterator[Done]:
    """Yield the folders that hold the numbers of one kind of step."""
    inside = sorted(path.parent for path in folder.glob(f"*/{name}")) if folder.is_dir() else []
    for place in (folder, *inside):
        if (place / name).is_file():
            yield Done(place, numbers_of(place, name.removesuffix(".json"), "pool"))


def _only(steps: Sequence[Done], what: str) -> Done | None:
    if len(steps) > 1:
        names = listed([str(step.folder) for step in steps])
        raise UserError(f"there are {what} of several runs, {names}; give a folder that holds those of one")
    return steps[0] if steps else None


def _pool(folder: Path, steps: Sequence[Done]) -> Pool:
    """Open the embeddings that all steps are of."""
    prints = [
        step.told["pool"] if isinstance(step.told["pool"], str) else step.told["pool"]["digest"] for step in steps
    ]
    for step, digest in zip(steps, prints, strict=True):
        if digest != prints[0]:
            raise UserError(f"{step.folder} is of other embeddings than {steps[0].folder}; give a folder of one run")
    changed = None
    for place in dict.fromkeys(
        each for step in steps for each in _places(step.told.get("embeddings"), "embeddings", folder)
    ):
        if not (place / STAMP).is_file():
            continue
        pool = Pool(place)
        if pool.digest == prints[0]:
            return pool
        changed = place
    if changed is not None:
        raise UserError(f"{changed} has changed since {steps[0].folder} was made of it; give the same command again")
    told = steps[0].told.get("embeddings") or folder / "embeddings"
    here = folder / "embeddings"
    raise UserError(f"the embeddings of {steps[0].folder} are gone from {told}; put them back there, or into {here}")


def _places(told: object, name: str, folder: Path) -> list[Path]:
    """Return where a pool may be: where a step says, or where `auto` puts it."""
    return [*([Path(str(told))] if told else []), folder / name, folder.resolve().parent / name]


def _sampled(folder: Path, levels: Levels | None) -> dict[str, Int64[np.ndarray, " line"]] | None:
    """Find the balanced choice among the tables of a folder, which is one of these clusters."""
    found = []
    for path in sorted(folder.glob("*.parquet")):
        if is_selection(str(path)):
            with parquet(str(path)) as file:
                found += [path] if {"place", "cluster1"} <= set(file.schema_arrow.names) else []
    if not found:
        return None
    if len(found) > 1:
        raise UserError(f"there are several balanced choices, {listed(list(map(str, found)))}; leave one of them there")
    if levels is None:
        raise UserError(f"{found[0]} is a choice of clusters that are not in {folder}; put both into one folder")
    names = [f"cluster{number}" for number in range(1, len(levels.parents) + 1)]
    with parquet(str(found[0])) as file:
        fits = set(names) <= set(file.schema_arrow.names)
    lines = read_table(found[0], ["place", *names]) if fits else {}
    if not fits or not _of(levels, lines):
        raise UserError(f"{found[0]} is a choice of other clusters than those in {folder}; sample again")
    return {name: each.astype(np.int64) for name, each in lines.items()}


def _of(levels: Levels, lines: Mapping[str, Int64[np.ndarray, " line"]]) -> bool:
    """Tell whether the places of a choice lie in the clusters that it says."""
    where = np.minimum(np.searchsorted(levels.rows, lines["place"]), len(levels.rows) - 1)
    fits = np.array_equal(levels.rows[where], lines["place"])
    for number, parent in enumerate(levels.parents, start=1):
        where = parent[where]
        fits = fits and np.array_equal(where, lines[f"cluster{number}"])
    return fits


def _fates(
    folder: Path,
    pool: Pool,
    same: Done | None,
    levels: Levels | None,
    sampled: dict[str, Int64[np.ndarray, " line"]] | None,
    near: Sequence[Done],
) -> tuple[tuple[Fate, ...], int | None]:
    """Give each row the first of the fates that claims it, and the rest one of its own; then count the selection."""
    chosen, total = dict[str, Int64[np.ndarray, " row"]](), None
    if (folder / AUTO).is_file() and (folder / SELECTION).is_file():
        chosen, total = _components(folder / SELECTION)
    else:
        chosen |= {} if sampled is None else {"balanced": sampled["place"]}
        chosen |= {step.folder.name: read_table(step.folder / SELECTION, ["place"])["place"] for step in near}
    dropped = dict[str, Int64[np.ndarray, " row"]]()
    if same is not None:
        lines = read_table(same.folder / dedup.DROPPED, ["row", "reason"])
        dropped = {name: lines["row"][lines["reason"] == name] for name in (dedup.REFERENCE, dedup.DUPLICATE)}
    if levels is not None and (sampled is not None or not near):
        dropped[CLUSTERED if sampled is None else OVER] = levels.rows
    free, fates = np.ones(len(pool), dtype=bool), []
    for name, rows in (*chosen.items(), *dropped.items()):
        rows = np.unique(rows)
        rows = rows[free[rows]]
        free[rows] = False
        fates.append(Fate(name, rows, name in chosen))
    unclaimed = NOT_CLUSTERED if levels is not None else KEPT
    rest = NOT_RETRIEVED if near and sampled is None else unclaimed
    fates.append(Fate(rest, np.flatnonzero(free), chosen=False))
    return tuple(fates), total


def _components(path: Path) -> tuple[dict[str, Int64[np.ndarray, " row"]], int]:
    """Return of a selection of `auto` the rows of each component but the seeds, and the number of its lines."""
    with parquet(str(path)) as file:
        if "place" not in file.schema_arrow.names:
            raise UserError(
                f"{path} does not say which embedding an image has; give the same dinokit curate auto again"
            )
    lines = read_table(path, ["component", "place"])
    names, which = np.unique(lines["component"].astype(str), return_inverse=True)
    parts = {name: lines["place"][which == number] for number, name in enumerate(names.tolist())}
    return {name: rows for name, rows in parts.items() if not name.startswith(SEEDS)}, len(which)
