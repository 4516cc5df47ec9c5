"""Where k-means begins: far from each other, yet where vectors are.

A few vectors: greedy k-means++ (Arthur and Vassilvitskii 2007, with the local trials of scikit-learn). Next centres are
drawn with probability D(x)^2 / sum D^2, D the distance to the nearest centre so far; of 2 + ln k candidates the one
that leaves the smallest sum is taken. Its k rounds one after another are too many for a large k.

Many vectors: a sample of them, 16 or more rows per centre. Many centres: k-means|| (Bahmani et al. 2012,
arXiv:1203.6402): five rounds, in each of which every row joins the candidates with probability k / 2 x D^2 / sum D^2;
each candidate then weighs as many rows as are nearest to it, and k-means++ draws the centres among the candidates, of
many several at a time: a few of thousands that are drawn by the same distances are hardly ever near each other.

All ranks get the same centres, for any number of them with as many threads each: products of k-means++ round as their
threads cut them.
"""

import math

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from dinokit.core import dist
from dinokit.core.seed import generator
from dinokit.curation.assign import Centres, assign, squared
from dinokit.curation.kmeans import CHUNK, share
from dinokit.curation.vectors import Vectors

SMALL = 5e10  # vectors x centres x numbers that greedy k-means++ is used for: half a minute of a core
HELD = 1 << 26  # numbers that it holds in memory: 256 MiB
ROUNDS = 5
SEVERAL = 1024  # rounds in which k-means++ draws among candidates, at most twice as many
DISTANCES = 1 << 24  # that it looks at together: 64 MiB
SAMPLED = 16  # rows per centre, and
LEAST = 1 << 16  # rows in all, at least
# what is drawn: the first integer of a draw's key, so that no two share a stream; FEW are those of level.py
STRATA, GREEDY, FIRST, JOINS, AMONG, FEW = range(6)


def start(vectors: Vectors, count: int, *, key: tuple[int, ...], device: torch.device) -> Float32[Tensor, "centre dim"]:
    """Choose centres among the vectors; all ranks must call together and get the same.

    Args:
        count: at most as many as there are vectors.
        key: integers from which everything drawn follows.
    """
    assert count <= len(vectors), "as many centres as vectors at most"
    if len(vectors) * vectors.dim * count > SMALL or len(vectors) * vectors.dim > HELD:
        wanted = min(max(SAMPLED * count, LEAST), len(vectors))
        strata = (np.arange(wanted) + generator(STRATA, *key).random(wanted)) * (len(vectors) / wanted)  # a row of each
        vectors = vectors.subset(np.minimum(strata.astype(np.int64), len(vectors) - 1))
    if len(vectors) * vectors.dim * count > SMALL:
        return _parallel(vectors, count, key=key, device=device)
    points, draw = torch.as_tensor(vectors.read(0, len(vectors))).to(device).float(), generator(GREEDY, *key)
    first, uniforms = int(draw.integers(len(points))), draw.random((count - 1, 2 + int(math.log(count))))
    return points[torch.from_numpy(plus_plus(points, first, uniforms))]


@torch.inference_mode()
def plus_plus(
    points: Float32[Tensor, "row dim"], first: int, uniforms: Float64[np.ndarray, "draw trial"]
) -> Int64[np.ndarray, " centre"]:
    """Choose rows by greedy k-means++, one more than there are draws.

    Args:
        first: the row to begin with.
        uniforms: in [0, 1); every draw has as many candidates as there are trials.
    """
    chosen, sizes = [first], points.square().sum(dim=1)
    far = (points - points[first]).square().sum(dim=1).double()  # squared distance to the nearest centre so far
    for draw in torch.from_numpy(uniforms).to(far):
        sums = far.cumsum(dim=0)
        candidates = torch.searchsorted(sums, draw * sums[-1]).clamp(max=len(points) - 1)  # [trial]
        products = points @ points[candidates].T  # [row, trial]
        apart = (sizes[:, None] + sizes[candidates] - 2 * products).clamp(min=0).double()
        left = torch.minimum(far[:, None], apart)  # [row, trial]
        best = int(left.sum(dim=0).argmin())
        far = left[:, best]
        chosen.append(int(candidates[best]))
        far[chosen[-1]] = 0  # not by a rounded product
    return np.array(chosen)


@torch.inference_mode()
def weighted_plus_plus(
    points: Float32[Tensor, "row dim"], weights: Float64[Tensor, " row"], count: int, draw: np.random.Generator
) -> Int64[Tensor, " centre"]:
    """Choose rows by k-means++, first the heaviest; of many, several are drawn by the same distances."""
    together, sizes = max(count // SEVERAL, 1), points.square().sum(dim=1)
    chosen, far = [weights.argmax()[None]], torch.full_like(weights, torch.inf)
    while (left := count - sum(map(len, chosen))) > 0:
        fresh = chosen[-1]
        step = max(DISTANCES // len(fresh), 1)
        for part in (slice(first, first + step) for first in range(0, len(points), step)):  # no copy of the points
            apart = sizes[part, None] + sizes[fresh] - 2 * (points[part] @ points[fresh].T)  # [part, fresh]
            far[part] = torch.minimum(far[part], apart.clamp(min=0).amin(dim=1).double())
        far[fresh] = 0  # not by a rounded product
        # the first of exponential clocks at these rates to ring: a draw without replacement
        clocks = torch.from_numpy(draw.exponential(size=len(points))).to(far) / (weights * far)
        chosen.append(clocks.topk(min(together, left), largest=False).indices)
    return torch.cat(chosen)


def _parallel(
    vectors: Vectors, count: int, *, key: tuple[int, ...], device: torch.device
) -> Float32[Tensor, "centre dim"]:
    """Choose centres by k-means||."""
    begin, end = share(len(vectors))
    far, nearest = np.full(end - begin, np.inf), np.zeros(end - begin, dtype=np.int64)
    rows, fresh = list[int](), [int(generator(FIRST, *key).integers(len(vectors)))]
    for turn in range(ROUNDS + 1):
        ready = Centres(torch.as_tensor(vectors.take(np.array(fresh))).to(device).float())
        for first, block in vectors.blocks(begin, end):
            centre = assign(block, ready)
            apart = squared(block, ready.exact, centre).cpu().numpy()
            place = slice(first - begin, first - begin + len(block))
            closer = apart < far[place]
            far[place] = np.where(closer, apart, far[place])
            nearest[place] = np.where(closer, centre.cpu().numpy() + len(rows), nearest[place])
        rows += fresh
        if turn < ROUNDS:
            draws = [generator(JOINS, *key, turn, at).random(CHUNK) for at in range(begin, end, CHUNK)]
            joins = np.concatenate([*draws, far[:0]])[: end - begin] * _sum(far) < count / 2 * far
            fresh = dist.gather_lists((np.flatnonzero(joins) + begin).tolist())
            if not fresh:  # every vector is a candidate, or equal to one
                break
    weights = dist.all_reduce(torch.bincount(torch.from_numpy(nearest), minlength=len(rows)))
    if len(rows) < count:  # nearly all are equal; the rest may be any
        others = np.setdiff1d(np.arange(len(vectors)), rows)[: count - len(rows)]
        return torch.as_tensor(vectors.take(np.concatenate([rows, others]))).to(device).float()
    points = torch.as_tensor(vectors.take(np.array(rows))).to(device).float()
    return points[weighted_plus_plus(points, weights.double().to(device), count, generator(AMONG, *key))]


def _sum(values: Float64[np.ndarray, " row"]) -> float:
    """Add up the numbers of all ranks: chunk by chunk, and the chunks exactly, so that shares do not matter."""
    return math.fsum(dist.gather_lists([float(values[at : at + CHUNK].sum()) for at in range(0, len(values), CHUNK)]))
