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
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float32, Int32, Int64
from torch import Tensor

from dinokit.core import device as devices
from dinokit.core import dist
from dinokit.core.files import digest, write_atomic
from dinokit.core.messages import UserError, info, is_main
from dinokit.core.numbers import at_least
from dinokit.core.seed import generator
from dinokit.curation.kmeans import distances, lloyd, look
from dinokit.curation.memory import block_within
from dinokit.curation.pool import Pool
from dinokit.curation.start import FEW, start
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
QUIET = 10.0  # seconds between two lines on how far it is
_TOGETHER = 64  # clusters that are split between two writes


@dataclass(frozen=True, kw_only=True)
class Config:
    """How a pool is clustered."""

    levels: tuple[int, ...] | None = at_least(1, None)  # clusters of each, fine to coarse; null: by the pool's size
    splits: int | None = at_least(1, None)  # parts of each first cluster, which level 1 is of; null: levels', else 1
    resample: int = at_least(0, 9)  # rounds of resampling within a level; none where it is split
    pick: Literal["closest", "random"] = "closest"  # which rows of a cluster a round takes, half the average number
    iterations: int = at_least(1, 20)  # moves of the centres; fewer where they stay
    seed: int = at_least(0, 0)  # of all that is drawn by lot


@dataclass(frozen=True)
class Level:
    """Where the entries of a level belong."""

    centres: Float32[Tensor, "cluster dim"]
    parent: Int32[np.ndarray, " entry"]
    distance: Float32[np.ndarray, " entry"]


def levels_for(rows: int) -> tuple[tuple[int, ...], int]:
    """Return the number of clusters of each level, and of splits, that suit a pool."""
    ratios, splits = next((ratios, splits) for limit, ratios, splits in _BY_SIZE if rows <= limit)
    wanted = tuple(dict.fromkeys(max(rows // ratio, 1) for ratio in ratios))
    return tuple(count for count in wanted if count > 1) or wanted[:1], splits


def half(entries: int, clusters: int) -> int:
    """Return how many entries of each cluster resampling takes: half of the average number, rounded up."""
    return -(-round(entries / clusters) // 2)


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
    key = (config.seed, number)
    if splits == 1:
        # one entry of each cluster would leave k-means as many as it has centres
        rounds = config.resample if half(len(vectors), count) >= 2 else 0
        return _resampled(vectors, count, rounds, config, key, state / f"{number}", device)
    coarse = _resampled(vectors, count // splits, 0, config, key, state / f"{number}", device)
    return _split(vectors, coarse, splits, config, key, state / f"{number}-split", device)


def _resampled(
    vectors: Vectors, count: int, rounds: int, config: Config, key: tuple[int, ...], state: Path, device: torch.device
) -> Level:
    """Cluster by k-means, then again and again on a few rows of each cluster, to which all entries are assigned."""
    state.mkdir(parents=True, exist_ok=True)
    turn, move, centres = _kept(state, device)
    said = -math.inf
    while True:
        taken = vectors if turn == 0 else vectors.subset(np.load(state / f"rows{turn}.npy"))
        name = f"level {key[1]} · " + (f"resampled, {turn} of {rounds} · " if turn else "") + f"{len(taken):,} vectors"
        if centres is None:
            drawn = start(taken, min(count, len(taken)), key=(*key, turn), device=device)
            centres = dist.shared({"centres": drawn} if is_main() else {}, device)["centres"]
            _keep(state, turn, 0, centres)
        for done, moved in lloyd(taken, centres, iterations=config.iterations, done=move):
            _keep(state, turn, done, moved)
            centres, apart = moved, float((moved - centres).norm(dim=1).mean())
            if time.monotonic() - said > QUIET:
                said = time.monotonic()
                which = f"move {done} of {config.iterations}"
                info(f"{name} · {len(centres):,} centres · {which} · by {apart:.3g} on average")
        level = _belonging(vectors, centres.half().float())  # as it will be kept
        if turn == rounds:
            return level
        few = _few(level, half(len(vectors), count), config.pick, key=(*key, turn))
        turn, move, centres = turn + 1, 0, None
        if is_main():
            write_array(state / f"rows{turn}.npy", few)
        dist.barrier()


def _kept(state: Path, device: torch.device) -> tuple[int, int, Float32[Tensor, "cluster dim"] | None]:
    """Return where a level stands: its round of resampling, the moves made in it, and the centres; None before them."""
    if not (state / "centres.npz").exists():
        return 0, 0, None
    with np.load(state / "centres.npz") as kept:
        turn, move = (int(each) for each in kept["at"])
        return turn, move, torch.from_numpy(kept["centres"]).to(device)


def _keep(state: Path, turn: int, move: int, centres: Float32[Tensor, "cluster dim"]) -> None:
    if is_main():
        with write_atomic(state / "centres.npz") as path, path.open("wb") as file:
            np.savez(file, at=(turn, move), centres=centres.cpu().numpy())


def _belonging(vectors: Vectors, centres: Float32[Tensor, "cluster dim"]) -> Level:
    """Assign all entries; centres without any are left out."""
    found = look(vectors, centres, sums=False)
    distance = np.sqrt(np.concatenate(dist.gather_lists([distances(vectors, centres, found.centre)])))
    used = (found.counts > 0).cpu()
    number = (used.cumsum(dim=0) - 1).numpy().astype(np.int32)
    parent = np.concatenate(dist.gather_lists([found.centre]))
    return Level(centres[used.to(centres.device)], number[parent], distance)


def _few(level: Level, count: int, pick: str, *, key: tuple[int, ...]) -> Int64[np.ndarray, " row"]:
    """Return so many entries of each cluster, those next to its centre or by lot, in their order."""
    first_by = level.distance if pick == "closest" else generator(FEW, *key).random(len(level.distance))
    order = np.lexsort((first_by, level.parent))
    sizes = np.bincount(level.parent)
    place = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(order[place < count])


def _split(
    vectors: Vectors,
    coarse: Level,
    splits: int,
    config: Config,
    key: tuple[int, ...],
    state: Path,
    device: torch.device,
) -> Level:
    """Divide each cluster by a k-means of its own; ranks take clusters by turns, some between two writes."""
    order, ends = np.argsort(coarse.parent, kind="stable"), np.cumsum(np.bincount(coarse.parent))
    batches = [range(first, min(first + _TOGETHER, len(ends))) for first in range(0, len(ends), _TOGETHER)]
    info(f"level 1 · {len(ends):,} clusters, each divided into {splits:,}")
    alone = dist.teams(dist.world_size()).members if dist.world_size() > 1 else None
    for batch in batches[dist.rank() :: dist.world_size()]:
        place = state / f"{batch.start}.npz"
        if place.exists():
            continue
        levels = []
        with dist.within(alone):
            for number in batch:
                mine = vectors.subset(order[ends[number - 1] if number else 0 : ends[number]])
                centres = start(mine, min(splits, len(mine)), key=(*key, 0, number), device=device)
                for _, moved in lloyd(mine, centres, iterations=config.iterations):
                    centres = moved
                levels.append(_belonging(mine, centres.half().float()))
        with write_atomic(place) as path, path.open("wb") as file:
            whole = _joined(levels)
            np.savez(file, centres=whole.centres.cpu().numpy(), parent=whole.parent, distance=whole.distance)
    dist.barrier()
    whole = _joined([_part(state / f"{batch.start}.npz") for batch in batches])
    back = np.argsort(order)
    return Level(whole.centres, whole.parent[back], whole.distance[back])


def _part(place: Path) -> Level:
    with np.load(place) as kept:
        return Level(torch.from_numpy(kept["centres"]), kept["parent"], kept["distance"])


def _joined(levels: Sequence[Level]) -> Level:
    """Put the clusters of several sets of entries after each other."""
    firsts = np.cumsum([0, *(len(level.centres) for level in levels)], dtype=np.int32)
    return Level(
        torch.cat([level.centres for level in levels]),
        np.concatenate([level.parent + first for level, first in zip(levels, firsts, strict=False)]),
        np.concatenate([level.distance for level in levels]),
    )


def _write(level: Level, place: Path) -> None:
    """Write the centres, then the table that makes them count."""
    write_array(place.with_suffix(".npy"), level.centres.half().cpu().numpy())
    write_table(place, {"cluster": level.parent, "distance": level.distance})
