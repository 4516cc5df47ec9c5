"""Hierarchical k-means: clusters of clusters, so that what is frequent does not take all the centres.

One k-means puts its centres where the data are; repeated on the centres it flattens their density, level by level.
Within a level resampling does the same: k-means again on a few rows of each cluster, so that all clusters count alike.
Source: hierarchical k-means curation (arXiv:2405.15613); DINOv3 (arXiv:2508.10104), section 3.1: five levels.

OUT/levelL.npy holds the centres of level L (float16, the vectors of the level above), OUT/levelL.parquet the cluster
of each of its entries - rows of the pool, then clusters of the level below - and the distance to its centre.
OUT/rows.parquet holds which rows of the pool these are; OUT/cluster.json, written last, what was done; OUT/.level that
from which a start after a kill goes on. Bytes are the same for any number of ranks with as many threads each.
"""

import copy
import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int32, Int64

from dinokit.core import device as devices
from dinokit.core import dist
from dinokit.core.files import digest
from dinokit.core.messages import UserError, is_main
from dinokit.core.numbers import at_least
from dinokit.curation.level import Level, Pick, half, resampled, split
from dinokit.curation.memory import block_within
from dinokit.curation.pool import Pool
from dinokit.curation.step import Step
from dinokit.curation.table import read_table, write_array, write_table
from dinokit.curation.vectors import Vectors

NAME, STATE, ROWS = "cluster", ".level", "rows.parquet"
DONE = f"{NAME}.json"
# up to how many rows: rows per cluster of each level, and splits. As in the sizes at which the method was run, scaled
_BY_SIZE: tuple[tuple[float, tuple[int, ...], int], ...] = (
    (3e5, (20, 100), 1),
    (5e6, (50, 500), 1),
    (5e7, (36, 360, 1_800), 1),
    (3e8, (50, 500, 5_000), 100),
    (3e9, (74, 1_486, 14_860, 74_300), 100),
    (math.inf, (85, 2_125, 21_250, 170_000, 680_000), 1_000),
)


@dataclass(frozen=True, kw_only=True)
class Config:
    """How a pool is clustered."""

    levels: tuple[int, ...] | None = at_least(1, None)  # clusters of each, fine to coarse; null: by the pool's size
    splits: int | None = at_least(1, None)  # parts of each first cluster, which level 1 is of; null: levels', else 1
    resample: int = at_least(0, 9)  # rounds of resampling within a level; none where it is split
    pick: Pick = "closest"  # which rows of a cluster a round takes, half the average number
    iterations: int = at_least(1, 20)  # moves of the centres; fewer where they stay
    seed: int = at_least(0, 0)  # of all that is drawn by lot


def levels_for(rows: int) -> tuple[tuple[int, ...], int]:
    """Return the number of clusters of each level, and of splits, that suit a pool."""
    ratios, splits = next((ratios, splits) for limit, ratios, splits in _BY_SIZE if rows <= limit)
    wanted = tuple(dict.fromkeys(max(rows // ratio, 1) for ratio in ratios))
    return tuple(count for count in wanted if count > 1) or wanted[:1], splits


def identity(pool: Pool, rows: Int64[np.ndarray, " row"] | None) -> dict[str, str | None]:
    """Return what tells some rows of a pool, None all, from any others."""
    return {"digest": pool.digest, "chosen": None if rows is None else digest([rows])}


def run(
    pool: Pool,
    config: Config,
    out: Path,
    *,
    rows: Int64[np.ndarray, " row"] | None = None,
    memory: int | None = None,
    device: torch.device,
) -> dict[str, Any]:
    """Cluster a pool, or some of its rows, into `out`; call as its owner, on all ranks together.

    Args:
        memory: bytes that each process may hold; whatever they are, the clusters are the same.

    Returns what OUT/cluster.json says.

    Raises:
        UserError: if there are more clusters than entries, a vector is not finite or zero, or `out` holds something
            else.
    """
    vectors = pool.vectors if rows is None else pool.vectors.subset(rows)
    levels, splits = shape(config, len(vectors))
    vectors = _within(memory, vectors, levels, splits)
    settings = asdict(config) | {"levels": levels, "splits": splits}
    stamp = {"settings": settings, "pool": identity(pool, rows) | {"rows": len(vectors)}}
    files = [name for number in range(1, len(levels) + 1) for name in (f"level{number}.npy", f"level{number}.parquet")]
    step = Step(out, NAME, stamp, (ROWS, *files))
    if (done := step.done()) is not None:
        return done
    pool.check(block=vectors.block)
    step.begin()
    parents = cluster(vectors, config, out, device=device)
    if is_main():
        write_table(out / ROWS, {"place": np.arange(len(pool)) if rows is None else rows})
        shutil.rmtree(out / STATE, ignore_errors=True)
    clusters = [int(parent.max()) + 1 for parent in parents]
    return step.end({"embeddings": pool.place, "clusters": clusters})


def shape(config: Config, rows: int) -> tuple[tuple[int, ...], int]:
    """Return the number of clusters of each level, and of splits, for so many rows.

    Raises:
        UserError: if there are more clusters than there is to cluster.
    """
    levels, splits = levels_for(rows) if config.levels is None else (config.levels, 1)
    splits = config.splits or splits
    for below, count in zip((rows, *levels), levels, strict=False):
        if count > below:
            raise UserError(
                f"levels: expected at most {below:,} clusters of {below:,} vectors, got {count:,}; fine to coarse"
            )
    if splits > levels[0]:
        raise UserError(f"splits: expected at most the {levels[0]:,} clusters of level 1, got {splits:,}")
    return levels, splits


def cluster(vectors: Vectors, config: Config, out: Path, *, device: torch.device) -> list[Int32[np.ndarray, " entry"]]:
    """Cluster vectors level by level and write the levels; go on where an earlier start was ended.

    All ranks must call together. Returns of every level the cluster of each of its entries.
    """
    levels, splits = shape(config, len(vectors))
    parents, device, block = [], devices.exact(device), vectors.block
    for number, count in enumerate(levels, start=1):
        place = out / f"level{number}.parquet"
        if not (place.exists() and place.with_suffix(".npy").exists()):
            parts = splits if number == 1 else 1
            level = _level(vectors, count, parts, config, number, out / STATE, device)
            if is_main():
                _write(level, place)
            dist.barrier()
        parents.append(read_table(place)["cluster"])
        vectors = Vectors([place.with_suffix(".npy")])
        vectors.block = block
    return parents


def _within(memory: int | None, vectors: Vectors, levels: Sequence[int], splits: int) -> Vectors:
    """Return the vectors, read in pieces that fit into memory."""
    if memory is None:
        return vectors
    centres, limited = max(levels[0] // splits, splits if splits > 1 else 1, *levels[1:], 1), copy.copy(vectors)
    limited.block = block_within(memory, rows=len(vectors), dim=vectors.dim, centres=centres, kept=levels[0])
    return limited


def _level(
    vectors: Vectors, count: int, splits: int, config: Config, number: int, state: Path, device: torch.device
) -> Level:
    """Cluster the entries of one level; clusters that nothing belongs to are left out."""
    given: dict[str, Any] = {"iterations": config.iterations, "key": (config.seed, number), "device": device}
    if splits == 1:
        # one entry of each cluster would leave k-means as many as it has centres
        rounds = config.resample if half(len(vectors), count) >= 2 else 0
        return resampled(vectors, count, rounds=rounds, pick=config.pick, state=state / f"{number}", **given)
    coarse = resampled(vectors, count // splits, state=state / f"{number}", **given)
    return split(vectors, coarse, splits, state=state / f"{number}-split", **given)


def _write(level: Level, place: Path) -> None:
    """Write the centres, then the table that makes them count."""
    write_array(place.with_suffix(".npy"), level.centres.half().cpu().numpy())
    write_table(place, {"cluster": level.parent, "distance": level.distance})
