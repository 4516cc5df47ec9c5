"""The nearest centre of every vector: large products choose a few, which are then settled exactly.

    nearest(x) = argmax_c  x . c - |c|^2 / 2

A product of matrices rounds as its blocks happen to be cut. The margin below bounds that error, so the true nearest
centre is always among those within it of the best score; nearly always it is alone there. The distances to them are
computed in float64 row by row, a piece at a time where many are nearly equal. So the answer is exact, does not depend
on how the rows are divided among blocks, ranks or devices, and of equal centres the first is taken.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Float16, Float32, Float64, Int64
from numpy import ndarray
from torch import Tensor
from torch.nn import functional

GROUP = 32  # neighbouring centres of which the best is looked for first: a third of the cost of looking at all
SCORES = 1 << 25  # numbers of a block of scores: 128 MiB
HITS, PAIRS = 1 << 14, 1 << 13  # groups that are looked into, and pairs that are settled, at a time


class Centres:
    """Centres made ready for products."""

    def __init__(self, centres: Float32[Tensor, "centre dim"]) -> None:
        count, self.dim = centres.shape
        self.exact = centres
        self.padded = functional.pad(centres, (0, 0, 0, -count % GROUP))
        halves = centres.double().square().sum(dim=1) / 2
        # what only fills up the last group is never the nearest
        self.bias = functional.pad(halves.neg().float(), (0, -count % GROUP), value=-torch.inf)
        self.longest = float(halves.max().mul(2).sqrt())
        self.rows = min(max(SCORES // len(self.padded), 16), 4096)  # of a block

    def margin(self, vectors: Float32[Tensor, "row dim"]) -> Float32[Tensor, "row 1"]:
        """Return by how much two scores of a row may be misjudged together: (dim + 2) roundings of float32 each."""
        sizes = vectors.square().sum(dim=1, keepdim=True).sqrt()
        rounding = (self.dim + 2) * torch.finfo(torch.float32).eps
        return rounding * self.longest * (sizes + self.longest / 2)


@torch.inference_mode()
def assign(
    vectors: Float16[ndarray, "row dim"] | Float[Tensor, "row dim"], centres: Centres
) -> tuple[Int64[Tensor, " row"], Float64[Tensor, " row"]]:
    """Return the nearest centre of each vector and the square of the distance to it, where the centres are."""
    given = torch.as_tensor(vectors).to(centres.exact.device)
    blocks = [_assign_block(block.float(), centres) for block in torch.split(given, centres.rows)]
    return torch.cat([block[0] for block in blocks]), torch.cat([block[1] for block in blocks])


def _assign_block(
    vectors: Float32[Tensor, "row dim"], centres: Centres
) -> tuple[Int64[Tensor, " row"], Float64[Tensor, " row"]]:
    scores = torch.addmm(centres.bias, vectors, centres.padded.T)
    scores = scores.view(len(vectors), -1, GROUP)  # [row, group, GROUP]
    nearest = torch.full((len(vectors),), torch.inf, dtype=torch.float64, device=scores.device)
    none = torch.full((len(vectors),), len(centres.exact), device=scores.device)
    centre = none
    for rows, candidates in _candidates(scores, centres.margin(vectors)):
        distances = (vectors[rows].double() - centres.exact[candidates].double()).square().sum(dim=1)
        nearer = nearest.scatter_reduce(0, rows, distances, "amin")
        first = distances == nearer[rows]
        found = none.scatter_reduce(0, rows[first], candidates[first], "amin")
        centre = torch.where(nearer < nearest, found, centre)  # those of later pieces come later
        nearest = nearer
    return centre, nearest


def _candidates(
    scores: Float32[Tensor, "row group member"], margin: Float32[Tensor, "row 1"]
) -> Iterator[tuple[Int64[Tensor, " pair"], Int64[Tensor, " pair"]]]:
    """Yield rows and the centres that may be their nearest, by row and centre, in pieces of bounded size."""
    best_of_group = scores.amax(dim=2)
    least = best_of_group.amax(dim=1, keepdim=True) - margin  # [row, 1]
    rows, groups = (best_of_group >= least).nonzero(as_tuple=True)
    for row, group in zip(torch.split(rows, HITS), torch.split(groups, HITS), strict=True):
        pairs, members = (scores[row, group] >= least[row]).nonzero(as_tuple=True)
        candidates = group[pairs] * GROUP + members
        yield from zip(torch.split(row[pairs], PAIRS), torch.split(candidates, PAIRS), strict=True)
