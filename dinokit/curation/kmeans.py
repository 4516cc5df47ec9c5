"""K-means over vectors that need not fit into memory, on any number of ranks.

Lloyd's algorithm: assign every vector to its nearest centre, move every centre to the mean of its vectors, and again.
Each rank looks at its share of the rows, and the sums are added up. They come out the same to the bit whatever the
number of ranks: a float16 of size at most 1 is a multiple of 2^-24, so its sum in float64 is exact up to half a billion
rows, and the assignment does not depend on the company that a row is in (assign.py).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int32, Int64
from torch import Tensor

from dinokit.core import dist
from dinokit.core.messages import progress
from dinokit.curation.assign import Centres, assign, squared
from dinokit.curation.vectors import Vectors

CHUNK = 1 << 14  # rows; the borders of shares lie between chunks, whatever the number of ranks


@dataclass(frozen=True)
class Assigned:
    """What a look at all vectors found; sums and counts are of all ranks, the rest of this rank's share."""

    centre: Int32[np.ndarray, " row"]
    sums: Float64[Tensor, "centre dim"]
    counts: Int64[Tensor, " centre"]


def share(rows: int) -> tuple[int, int]:
    """Return the first row and the end of what this rank looks at."""
    chunks = -(-rows // CHUNK)
    borders = [min(chunks * rank // dist.world_size() * CHUNK, rows) for rank in (dist.rank(), dist.rank() + 1)]
    return borders[0], borders[1]


def look(vectors: Vectors, centres: Float32[Tensor, "centre dim"], *, sums: bool = True) -> Assigned:
    """Assign every vector to its nearest centre; all ranks must call together.

    Args:
        sums: also add up the vectors of each centre; where not, the sums are empty.
    """
    ready, (start, stop) = Centres(centres), share(len(vectors))
    added = torch.zeros(centres.shape if sums else (0, vectors.dim), dtype=torch.float64, device=centres.device)
    counts = torch.zeros(len(centres), dtype=torch.int64, device=centres.device)
    centre = np.empty(stop - start, dtype=np.int32)
    for first, rows in progress(vectors.blocks(start, stop), vectors.pieces(start, stop)):
        nearest = assign(rows, ready)
        centre[first - start : first - start + len(rows)] = nearest.cpu().numpy()
        counts += torch.bincount(nearest, minlength=len(centres))
        if sums:
            added.index_add_(0, nearest, torch.as_tensor(rows).to(added))
    return Assigned(centre, dist.all_reduce(added), dist.all_reduce(counts))


def distances(
    vectors: Vectors, centres: Float32[Tensor, "centre dim"], centre: Int32[np.ndarray, " row"]
) -> Float32[np.ndarray, " row"]:
    """Return the square of the distance of each vector of this rank's share to its centre."""
    start, stop = share(len(vectors))
    found = np.empty(stop - start, dtype=np.float32)  # pieces of it would keep what was freed around them from reuse
    for first, rows in vectors.blocks(start, stop):
        place = slice(first - start, first - start + len(rows))
        nearest = torch.from_numpy(centre[place]).to(centres.device)
        found[place] = squared(rows, centres, nearest).float().cpu().numpy()
    return found


def moved(vectors: Vectors, centres: Float32[Tensor, "centre dim"], found: Assigned) -> Float32[Tensor, "centre dim"]:
    """Return the mean of each centre's vectors; one without any goes where the vector farthest from its centre is.

    All ranks must call together.
    """
    means = (found.sums / found.counts.clamp(min=1)[:, None]).float()
    empty = (found.counts == 0).nonzero().flatten()
    if len(empty):
        distance = distances(vectors, centres, found.centre)
        far = np.argsort(-distance, kind="stable")[: len(empty)]
        mine = zip((-distance[far]).tolist(), (far + share(len(vectors))[0]).tolist(), strict=True)
        farthest = [row for _, row in sorted(dist.gather_lists(list(mine)))[: len(empty)]]
        means[empty[: len(farthest)]] = torch.as_tensor(vectors.take(np.array(farthest))).to(means)
        means[empty[len(farthest) :]] = centres[empty[len(farthest) :]]  # more centres than vectors
    return means


def lloyd(
    vectors: Vectors, centres: Float32[Tensor, "centre dim"], *, iterations: int, done: int = 0
) -> Iterator[tuple[int, Float32[Tensor, "centre dim"]]]:
    """Move centres until they stay where they are; all ranks must call together and get the same.

    Yields after each move its number from 1 on and the new centres.

    Args:
        iterations: moves, at most.
        done: moves that were made before.
    """
    for move in range(done + 1, iterations + 1):
        old = centres
        centres = moved(vectors, centres, look(vectors, centres))
        yield move, centres
        if torch.equal(centres, old):
            break
