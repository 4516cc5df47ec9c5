"""A balanced choice from a hierarchy of clusters: budgets from the top down.

A budget is divided among siblings as water fills vessels: every cluster gets the same, but none more than it holds.

    t_i = min(x, m s_i)      x the largest whole number with  sum_i t_i <= T

s_i is how many rows lie below cluster i, m how often a row may be used, T the budget; what is then left, fewer than
there are siblings that hold more, goes one each to some of these by lot. Source: hierarchical k-means curation
(arXiv:2405.15613), section 3; LVD-1689M of DINOv3.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int64, Shaped

from dinokit.core.messages import UserError
from dinokit.core.numbers import at_least
from dinokit.core.seed import generator
from dinokit.curation.cluster import DONE, NAME, ROWS
from dinokit.curation.pool import Pool
from dinokit.curation.step import numbers_of
from dinokit.curation.table import read_places, read_table
from dinokit.sources.selection import write_selection


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is taken of a clustered pool."""

    size: int = at_least(1)  # images that are chosen
    multiplier: int = at_least(1, 1)  # how often one may be taken
    pick: Literal["random", "closest"] = "random"  # which of a cluster's: by lot, or next to its centre
    seed: int = at_least(0, 0)  # of all that is drawn by lot


def run(clusters: Path, config: Config, out: Path) -> int:
    """Choose a balanced set of what `dinokit curate cluster` clustered and write it as a selection.

    Returns how many images were chosen.

    Raises:
        UserError: if the folder holds no clusters of the embeddings at hand, or fewer images than are asked for.
    """
    levels = opened(clusters)
    most = config.multiplier * len(levels.rows)
    if config.size > most:
        more = f"; give --multiplier {-(-config.size // len(levels.rows))} to take some several times"
        raise UserError(f"size: expected at most the {most:,} images of {clusters}, got {config.size:,}{more}")
    found = sample(
        levels.parents,
        levels.distance,
        config.size,
        multiplier=config.multiplier,
        closest=config.pick == "closest",
        seed=config.seed,
    )
    where, columns = found, dict[str, Any]()
    for number, parent in enumerate(levels.parents, start=1):
        where = parent[where]
        columns[f"cluster{number}"] = where
    columns |= {"distance": levels.distance[found], "place": levels.rows[found]}
    lines = levels.pool.selection(
        levels.rows[found],
        component="balanced",
        reason="balanced",
        columns=lambda part: {name: column[part] for name, column in columns.items()},
    )
    return write_selection(out, lines, fingerprints=levels.pool.fingerprints)


@dataclass(frozen=True)
class Levels:
    """A clustered pool."""

    pool: Pool
    rows: Int64[np.ndarray, " row"]  # of the pool, that were clustered
    parents: list[Int64[np.ndarray, " entry"]]  # of every level the cluster of each of its entries, from fine to coarse
    distance: Shaped[np.ndarray, " row"]  # to the centre of its cluster


def opened(clusters: Path, pool: Pool | None = None) -> Levels:
    """Open what `dinokit curate cluster` wrote, and the embeddings it belongs to where they are not given."""
    if not (clusters / DONE).is_file():
        raise UserError(
            f"{clusters} holds no clusters (no {DONE}); make them: dinokit curate cluster EMBEDDINGS --out it"
        )
    told = numbers_of(clusters, NAME, "embeddings", "pool", "clusters")
    pool = Pool(told["embeddings"]) if pool is None else pool
    if pool.digest != told["pool"]["digest"]:
        raise UserError(f"{pool.folder} has changed since {clusters} was made of it; cluster it again")
    rows, counts = read_places(clusters / ROWS, "place", below=len(pool)), told["clusters"]
    parents = [
        read_places(clusters / f"level{number}.parquet", "cluster", below=count, count=entries)
        for number, (entries, count) in enumerate(pairwise([len(rows), *counts]), start=1)
    ]
    return Levels(pool, rows, parents, read_table(clusters / "level1.parquet", ["distance"])["distance"])


def budgets(
    sizes: Int64[np.ndarray, " child"],
    parents: Int64[np.ndarray, " child"],
    totals: Int64[np.ndarray, " parent"],
    *,
    draw: np.random.Generator,
) -> Int64[np.ndarray, " child"]:
    """Divide the budget of every parent among its children.

    Args:
        sizes: what each child can give at most.
        parents: whose child each is.
        totals: the budgets; more than the children can give makes them give all.
    """
    order = np.lexsort((sizes, parents))  # by parent, small ones first
    size, parent = sizes[order], parents[order]
    count = np.bincount(parents, minlength=len(totals))
    first = np.cumsum(count) - count  # where the children of each parent begin
    before = np.cumsum(size) - size
    given = before - np.append(before, 0)[np.minimum(first, len(size))][parent]  # what smaller siblings hold
    left = first[parent] + count[parent] - np.arange(len(size))  # siblings from this one on
    whole = given + left * size <= totals[parent]  # it can be kept whole, and all before it
    kept = np.bincount(parent[whole], minlength=len(totals))
    spent = np.bincount(parent[whole], weights=size[whole], minlength=len(totals)).astype(np.int64)
    cut = count - kept
    level = np.where(cut > 0, (totals - spent) // np.maximum(cut, 1), 0)  # x
    out = np.where(whole, size, level[parent])
    rest = np.where(cut > 0, totals - spent - level * cut, 0)
    lots = np.lexsort((draw.random(len(size)), whole, parent))  # of each parent, those that are cut come first
    lucky = lots[np.arange(len(size)) - first[parent[lots]] < rest[parent[lots]]]
    out[lucky] += 1
    result = np.empty_like(out)
    result[order] = out
    return result


def below(parents: Sequence[Int64[np.ndarray, " cluster"]], rows: int) -> list[Int64[np.ndarray, " cluster"]]:
    """Return how many rows lie under every cluster of every level, from fine to coarse.

    Args:
        parents: of every level the cluster of each of its entries: first of the rows, then of the clusters below.
        rows: of the pool.
    """
    sizes, found = np.ones(rows, dtype=np.int64), []
    for parent in parents:
        sizes = np.bincount(parent, weights=sizes, minlength=int(parent.max()) + 1).astype(np.int64)
        found.append(sizes)
    return found


def sample(
    parents: Sequence[Int64[np.ndarray, " entry"]],
    distances: Shaped[np.ndarray, " row"],
    size: int,
    *,
    multiplier: int = 1,
    closest: bool = False,
    seed: int = 0,
) -> Int64[np.ndarray, " chosen"]:
    """Choose rows, in ascending order; exactly `size`, or every row `multiplier` times where there are not as many.

    Args:
        parents: see `below`.
        distances: of every row to its centre.
        multiplier: how often a row may be taken.
        closest: of a cluster take those next to its centre, else by lot.
    """
    rows = len(distances)
    sizes = below(parents, rows)
    tops = len(sizes[-1])
    given = budgets(
        multiplier * sizes[-1], np.zeros(tops, dtype=np.int64), np.array([size]), draw=generator(seed, len(sizes))
    )
    for level in range(len(sizes) - 2, -1, -1):
        given = budgets(multiplier * sizes[level], parents[level + 1], given, draw=generator(seed, level + 1))
    leaf = parents[0]
    ranked = np.lexsort((distances if closest else generator(seed, 0).random(rows), leaf))
    place = np.empty(rows, dtype=np.int64)  # of each row in its cluster
    place[ranked] = np.arange(rows) - (np.cumsum(sizes[0]) - sizes[0])[leaf[ranked]]
    copies, more = given[leaf] // sizes[0][leaf], given[leaf] % sizes[0][leaf]
    return np.repeat(np.arange(rows), copies + (place < more))
