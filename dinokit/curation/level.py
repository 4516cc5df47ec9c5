"""One level of clusters: k-means, resampled or split, that goes on inside after a kill.

Bytes are the same for any number of ranks with as many threads each.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32, Int32, Int64
from torch import Tensor

from dinokit.core import dist
from dinokit.core.files import write_atomic
from dinokit.core.messages import info, is_main
from dinokit.core.seed import generator
from dinokit.curation.kmeans import distances, lloyd, look
from dinokit.curation.start import FEW, start
from dinokit.curation.table import write_array
from dinokit.curation.vectors import Vectors

QUIET = 10.0  # seconds between two lines on how far it is
TOGETHER = 64  # clusters that are split between two writes

Pick = Literal["closest", "random"]


@dataclass(frozen=True)
class Level:
    """Where the entries of a level belong."""

    centres: Float32[Tensor, "cluster dim"]
    parent: Int32[np.ndarray, " entry"]
    distance: Float32[np.ndarray, " entry"]


def half(entries: int, clusters: int) -> int:
    """Return how many entries of each cluster resampling takes: half of the average number, rounded up."""
    return -(-round(entries / clusters) // 2)


def resampled(
    vectors: Vectors,
    count: int,
    *,
    rounds: int = 0,
    pick: Pick = "closest",
    iterations: int,
    key: tuple[int, ...],
    state: Path,
    device: torch.device,
) -> Level:
    """Cluster by k-means, then again and again on a few entries of each cluster; all entries are then assigned.

    All ranks must call together.

    Args:
        count: of clusters, at most.
        rounds: of resampling, each with half the average number of entries of a cluster.
        pick: which of them: those next to its centre, or any.
        iterations: moves of the centres, at most.
        key: integers from which everything drawn follows; the second is the level's number.
        state: a folder from which a start after a kill goes on.
    """
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
        for done, moved in lloyd(taken, centres, iterations=iterations, done=move):
            _keep(state, turn, done, moved)
            centres, apart = moved, float((moved - centres).norm(dim=1).mean())
            if time.monotonic() - said > QUIET:
                said = time.monotonic()
                which = f"move {done} of {iterations}"
                info(f"{name} · {len(centres):,} centres · {which} · by {apart:.3g} on average")
        level = _belonging(vectors, centres.half().float())  # as it will be kept
        if turn == rounds:
            return level
        few = _few(level, half(len(vectors), count), pick, key=(*key, turn))
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


def split(
    vectors: Vectors,
    coarse: Level,
    splits: int,
    *,
    iterations: int,
    key: tuple[int, ...],
    state: Path,
    device: torch.device,
) -> Level:
    """Divide each cluster by a k-means of its own; ranks take clusters by turns, some between two writes."""
    order, ends = np.argsort(coarse.parent, kind="stable"), np.cumsum(np.bincount(coarse.parent))
    batches = [range(first, min(first + TOGETHER, len(ends))) for first in range(0, len(ends), TOGETHER)]
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
                for _, moved in lloyd(mine, centres, iterations=iterations):
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
