"""Near-duplicates: images that are connected by similar ones are one group, of which one image stays.

Rows with equal vectors are joined at once. The others look for their k nearest; pairs above the threshold are edges,
and the groups are their connected components. Of a group the image of the most pixels stays, of these the lowest row.
Source: DINOv2 (arXiv:2304.07193), appendix A.3, with k = 64 and, for the embeddings of a copy detector, 0.6.

With references (the images of evaluations) whatever resembles one is left out: its whole component, formed at a
threshold of its own (0.45 in the paper), or only the rows that do so themselves. All rows form these components, also
those that are duplicates: if a copy resembles a reference, the image does not stay.

OUT/selection.parquet holds what stays, OUT/dropped.parquet each row that does not and because of whom, OUT/edges/ the
pairs that were found, OUT/dedup.json, written last, the numbers.
"""

import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64

from dinokit.core import dist
from dinokit.core.files import check_same
from dinokit.core.messages import UserError, info, is_main, library
from dinokit.core.numbers import OutOfBounds, at_least, between
from dinokit.curation.neighbours import Edges, cosines, places_of
from dinokit.curation.pairs import compute, find, read
from dinokit.curation.pool import Pool
from dinokit.curation.step import SELECTION, Step, numbers_of
from dinokit.curation.stored import EXTRA
from dinokit.curation.table import read_places, write_array, write_table
from dinokit.curation.threshold import Embed, proposed
from dinokit.curation.vectors import Vectors
from dinokit.sources.selection import write_selection

NAME, STATE = "dedup", ".cells"
DONE, DROPPED, THRESHOLD = f"{NAME}.json", "dropped.parquet", "threshold.json"
DUPLICATE, REFERENCE = "duplicate", "reference"  # why a row is dropped
WAITING = 1 << 23  # edges that are joined at a time


@dataclass(frozen=True, kw_only=True)
class Config:
    """What counts as a duplicate."""

    k: int = at_least(1, 64)  # neighbours of a row that are looked at
    threshold: float | Literal["auto"] = (
        "auto"  # cosine above which they are; auto: that which finds altered copies best
    )
    against_threshold: float | None = between(-1, 1, None)  # the same of an image and a reference; null: as threshold
    reach: Literal["component", "direct"] = "component"  # what a reference takes along: its component, or neighbours
    exact: int = at_least(1, 100_000)  # rows that are all compared with each other; more are within cells
    seed: int = at_least(0, 0)  # of all that is drawn by lot

    def __post_init__(self) -> None:
        if self.threshold != "auto" and not -1 <= self.threshold <= 1:
            raise OutOfBounds("threshold", f"must be auto, or between -1 and 1, got {self.threshold}")


@dataclass(frozen=True)
class Dropped:
    """Rows that do not stay, in ascending order, and for whom."""

    rows: Int64[np.ndarray, " row"]
    reference: Bool[np.ndarray, " row"]  # it resembles a reference; else it is a duplicate
    others: Int64[np.ndarray, " row"]  # of the references, or of the pool
    similarity: Float32[np.ndarray, " row"]


def run(
    pool: Pool,
    config: Config,
    out: Path,
    *,
    against: Pool | None = None,
    embed: Embed | None = None,
    device: torch.device,
) -> dict[str, Any]:
    """Find the duplicates of a pool and write what stays; call as the owner of `out`, on all ranks together.

    Args:
        against: the references.
        embed: the model that the pool was embedded with, for the threshold "auto".

    Raises:
        UserError: if a vector is not finite or zero, the references are vectors of another model, no threshold can be
            found, or `out` holds the result of something else.
    """
    stamp = {"settings": asdict(config), "pool": pool.digest, "against": None if against is None else against.digest}
    step = Step(out, NAME, stamp, (SELECTION, DROPPED))
    if (found := step.done()) is not None:
        return found
    pool.check()
    if against is not None:
        pool.check_same_model(against)
        against.check()
    step.begin()
    path, threshold = out / THRESHOLD, config.threshold
    above = proposed(pool, embed, seed=config.seed, path=path, device=device) if threshold == "auto" else threshold
    near = config.against_threshold if config.against_threshold is not None else above
    first = _firsts(pool.vectors, out / STATE)
    # the components of references may need edges that are none of duplicates
    join = config.reach == "component" and against is not None
    low = min(above, near) if join else above
    edges, links = _pairs(pool, against, first, config, low=low, near=near, out=out, device=device)
    numbers = dict[str, Any]()
    if is_main():
        same = components(first, read(edges), above=above)
        joined = components(first, read(edges), above=near) if join else first
        dropped = _dropped(pool, against, same, joined, Edges.concatenate([*read(links)]))
        numbers = _write(pool, dropped, same, out) | {"threshold": above, "against_threshold": near}
        numbers |= {"embeddings": pool.place, "references": None if against is None else against.place}
        shutil.rmtree(out / STATE, ignore_errors=True)
    return step.end(numbers)


def kept(out: Path, pool: Pool) -> Int64[np.ndarray, " row"]:
    """Return the rows of a pool that stay.

    Raises:
        UserError: if the folder holds no finished result, or that of another pool.
    """
    if not (out / DONE).is_file():
        raise UserError(f"{out} holds no duplicates (no {DONE}); dinokit curate dedup finds them")
    check_same({"pool": numbers_of(out, NAME, "pool")["pool"]}, {"pool": pool.digest}, place=out)
    return read_places(out / SELECTION, "place", below=len(pool))


def components(first: Int64[np.ndarray, " row"], parts: Iterable[Edges], *, above: float) -> Int64[np.ndarray, " row"]:
    """Return the lowest row of each row's connected component.

    Args:
        first: of every row the lowest one that it is joined with from the start, perhaps itself.
        parts: edges; those above the threshold count.
    """
    waiting, count = list[Edges](), 0
    for edges in parts:
        waiting.append(edges.some(edges.similarity > np.float32(above)))
        count += len(waiting[-1])
        if count > WAITING:
            first, waiting, count = _joined(first, Edges.concatenate(waiting)), [], 0
    return _joined(first, Edges.concatenate(waiting))


def resembling(vectors: Vectors, references: Vectors, component: Int64[np.ndarray, " row"], links: Edges) -> Dropped:
    """Drop the components in which a row resembles a reference.

    Args:
        component: of every row the lowest of its component; for the direct neighbours alone, that of its equals.
        links: the nearest reference of rows, if it is near enough.
    """
    # for whom a component goes: the reference of its best link, of equal ones that of the lower row
    order = np.lexsort((links.rows, -links.similarity, component[links.rows]))
    names, place = np.unique(component[links.rows][order], return_index=True)
    reference = np.full(len(component), -1, dtype=np.int64)
    reference[names] = links.others[order][place]
    reference = reference[component]
    reference[links.rows] = links.others  # a row's own comes before that of its component
    rows = np.flatnonzero(reference >= 0)
    others = reference[rows]
    return Dropped(rows, np.ones(len(rows), dtype=bool), others, cosines(vectors, rows, references, others))


def duplicates(pool: Pool, component: Int64[np.ndarray, " row"], gone: Bool[np.ndarray, " row"]) -> Dropped:
    """Drop all rows of each component but the one of the most pixels, of these the lowest; gone rows are none of it."""
    sides = pool.table(["width", "height"])
    pixels = sides["width"].to_numpy().astype(np.int64) * sides["height"].to_numpy()
    rows = np.flatnonzero(~gone)
    rows = rows[np.lexsort((rows, -pixels[rows], component[rows]))]
    nth = places_of(component[rows])
    best = rows[nth == 0][np.cumsum(nth == 0) - 1]  # of each row's component
    order = np.argsort(rows[nth > 0])
    rows, best = rows[nth > 0][order], best[nth > 0][order]
    similarity = cosines(pool.vectors, rows, pool.vectors, best)
    return Dropped(rows, np.zeros(len(rows), dtype=bool), best, similarity)


def _pairs(
    pool: Pool,
    against: Pool | None,
    first: Int64[np.ndarray, " row"],
    config: Config,
    *,
    low: float,
    near: float,
    out: Path,
    device: torch.device,
) -> tuple[list[Path], list[Path]]:
    """Find the pairs of rows above `low`, and of each row the nearest reference above `near`; all ranks together."""
    rows = np.flatnonzero(first == np.arange(len(first)))
    common: Any = {"exact": config.exact, "seed": config.seed, "device": device}
    search = find(pool.vectors, rows, k=config.k, above=low, state=out / STATE, **common)
    edges = compute(search, out / "edges")
    if against is None:
        return edges, []
    state = out / STATE / "against"
    search = find(pool.vectors, rows, against.vectors, k=1, above=near, state=state, **common)
    return edges, compute(search, out / "against")


def _dropped(
    pool: Pool,
    against: Pool | None,
    same: Int64[np.ndarray, " row"],
    joined: Int64[np.ndarray, " row"],
    links: Edges,
) -> Dropped:
    """Drop what resembles a reference, by components of its own, and of what is left the duplicates."""
    if against is None:
        return duplicates(pool, same, np.zeros(len(pool), dtype=bool))
    taken = resembling(pool.vectors, against.vectors, joined, links)
    return _together(taken, duplicates(pool, same, np.isin(np.arange(len(pool)), taken.rows)))


def _joined(first: Int64[np.ndarray, " row"], edges: Edges) -> Int64[np.ndarray, " row"]:
    """Join components by edges between their rows."""
    graphs, sparse = library("scipy.sparse.csgraph", extra=EXTRA), library("scipy.sparse", extra=EXTRA)
    names, places = np.unique(np.concatenate([first[edges.rows], first[edges.others]]), return_inverse=True)
    left, right = places.reshape(2, -1)
    graph = sparse.coo_matrix((np.ones(len(left), dtype=np.int8), (left, right)), shape=(len(names), len(names)))
    _, labels = graphs.connected_components(graph, directed=False)
    _, lowest, label = np.unique(labels, return_index=True, return_inverse=True)  # names are in ascending order
    new: Int64[np.ndarray, " row"] = np.arange(len(first))
    new[names] = names[lowest[label]]
    joined: Int64[np.ndarray, " row"] = new[first]
    return joined


def _firsts(vectors: Vectors, state: Path) -> Int64[np.ndarray, " row"]:
    """Return for every row the first one that has the same numbers.

    Else a thousand copies of a picture were each other's nearest neighbours, and were nobody else's.
    """
    path = state / "firsts.npy"
    if is_main() and not path.exists():
        digests = np.empty((len(vectors), 2), dtype=np.uint64)
        for start, rows in vectors.blocks():
            rows = rows + np.float16(0)  # -0 is 0
            told = b"".join(blake2b(row.tobytes(), digest_size=16).digest() for row in rows)
            digests[start : start + len(rows)] = np.frombuffer(told, dtype=np.uint64).reshape(-1, 2)
        order = np.lexsort((np.arange(len(vectors)), digests[:, 1], digests[:, 0]))
        new = np.ones(len(order), dtype=bool)
        new[1:] = (digests[order[1:]] != digests[order[:-1]]).any(axis=1)
        firsts = np.empty(len(order), dtype=np.int64)
        firsts[order] = order[new][np.cumsum(new) - 1]
        write_array(path, firsts)
    dist.barrier()
    found: Int64[np.ndarray, " row"] = np.load(path)
    return found


def _together(one: Dropped, other: Dropped) -> Dropped:
    order = np.argsort(np.concatenate([one.rows, other.rows]))
    return Dropped(*(np.concatenate([getattr(one, name), getattr(other, name)])[order] for name in vars(one)))


def _write(pool: Pool, dropped: Dropped, component: Int64[np.ndarray, " row"], out: Path) -> dict[str, Any]:
    """Write what stays and what does not, and return the numbers."""
    reasons = np.where(dropped.reference, REFERENCE, DUPLICATE).tolist()
    columns = {"row": dropped.rows, "reason": reasons, "other": dropped.others, "similarity": dropped.similarity}
    write_table(out / DROPPED, columns)
    kept = np.setdiff1d(np.arange(len(pool)), dropped.rows, assume_unique=True)
    if not len(kept):
        raise UserError(f"no image of {pool.folder} stays, {DROPPED} says why; give another threshold or reach")
    lines = pool.selection(kept, component="pool", reason="no duplicate", columns=lambda part: {"place": kept[part]})
    write_selection(out / SELECTION, lines, fingerprints=pool.fingerprints)
    sizes = np.bincount(component)
    references = int(dropped.reference.sum())
    copies = len(dropped.rows) - references
    told = f"{len(kept):,} of {len(pool):,} images stay · {copies:,} duplicates · {references:,} like references"
    info(f"{told} · {int(sizes.max()):,} in the largest group")  # a chain of pairs is one that grows without end
    return {
        "images": len(pool),
        "kept": len(kept),
        "duplicates": copies,
        "like references": references,
        "groups": int((sizes > 1).sum()),
        "largest group": int(sizes.max()),
    }
