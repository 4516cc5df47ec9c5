"""The nearest centre of every vector: large products choose a few, which are then settled exactly.

    nearest(x) = argmax_c  x . c - |c|^2 / 2

A product of matrices rounds, in float32 as its blocks happen to be cut, or to whole numbers (integers.py). A margin
bounds that error, so the true nearest centre is always among those within it of the best score. Where several are,
float32 pair by pair leaves those within its own margin; where several still are, distances in float64 decide, a piece
at a time where many are nearly equal. So the answer is exact, does not depend on how the rows are divided among blocks,
ranks or devices, and of equal centres the first is taken.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Float16, Float32, Float64, Int32, Int64, Shaped
from numpy import ndarray
from torch import Tensor
from torch.nn import functional

from dinokit.curation import integers

ROWS, TILE = 512, 2048  # of a product, which then stays in the cache of a core
GROUP = 32  # neighbouring centres of which the best is looked for first: a third of the cost of looking at all
SCORES = 1 << 25  # numbers of a block of scores, at most: 128 MiB
HITS, PAIRS = 1 << 14, 1 << 13  # groups that are looked into, and pairs that are settled, at a time
FROM = 2  # times as many centres as numbers, for whole numbers: turning costs as much as so many centres


class Centres:
    """Centres made ready for products."""

    def __init__(self, centres: Float32[Tensor, "centre dim"]) -> None:
        count, dim = centres.shape
        self.exact, self.tile = centres, min(TILE, count + -count % GROUP)
        fill = -count % self.tile
        halves = centres.double().square().sum(dim=1) / 2
        # what only fills up the last tile is never the nearest
        self.bias = functional.pad(halves.neg().float(), (0, fill), value=-torch.inf)
        self.longest = float(halves.max().mul(2).sqrt())
        self.rounding = (dim + 2) * torch.finfo(torch.float32).eps
        self.rows = min(max(SCORES // (count + fill), 16), ROWS)  # of a block
        whole = count >= FROM * dim and integers.are_fast(centres.device)
        self.product = integers.Integers(centres, fill=fill) if whole else Floats(self, fill=fill)

    def scores(
        self, vectors: Float32[Tensor, "row dim"]
    ) -> tuple[Shaped[Tensor, "tile row member"], Shaped[Tensor, "row 1"]]:
        """Return rounded scores, and by how much two of a row may be misjudged together, both in the same unit."""
        shape = len(self.bias) // self.tile, len(vectors), self.tile
        out = torch.empty(shape, dtype=self.product.dtype, device=vectors.device)
        return out, self.product(vectors, out)

    def margin(self, vectors: Float32[Tensor, "row dim"]) -> Float32[Tensor, "row 1"]:
        """Return by how much two scores of a row in float32 may be misjudged together: (dim + 2) roundings each."""
        sizes = vectors.square().sum(dim=1, keepdim=True).sqrt()
        return self.rounding * self.longest * (sizes + self.longest / 2)


class Floats:
    """Scores by products in float32, see `integers.Integers`."""

    dtype = torch.float32

    def __init__(self, centres: Centres, *, fill: int) -> None:
        self.centres, self.padded = centres, functional.pad(centres.exact, (0, 0, 0, fill))

    def __call__(
        self, vectors: Float32[Tensor, "row dim"], out: Float32[Tensor, "tile row member"]
    ) -> Float32[Tensor, "row 1"]:
        """Write the scores of all centres, a tile of them after the other, and return the margin."""
        for number, scores in enumerate(out):
            part = slice(number * out.shape[2], (number + 1) * out.shape[2])
            torch.addmm(self.centres.bias[part], vectors, self.padded[part].T, out=scores)
        return self.centres.margin(vectors)


@torch.inference_mode()
def assign(vectors: Float16[ndarray, "row dim"] | Float[Tensor, "row dim"], centres: Centres) -> Int64[Tensor, " row"]:
    """Return the nearest centre of each vector, where the centres are."""
    given = torch.as_tensor(vectors).to(centres.exact.device)
    return torch.cat([_assign_block(block.float(), centres) for block in torch.split(given, centres.rows)])


@torch.inference_mode()
def squared(
    vectors: Float16[ndarray, "row dim"] | Float[Tensor, "row dim"],
    centres: Float32[Tensor, "centre dim"],
    nearest: Int64[Tensor, " row"] | Int32[Tensor, " row"],
) -> Float64[Tensor, " row"]:
    """Return the square of the distance of each vector to its centre, where the centres are."""
    given = torch.as_tensor(vectors).to(centres.device)
    pieces = zip(torch.split(given, PAIRS), torch.split(nearest, PAIRS), strict=True)
    return torch.cat([(rows.double() - centres[each]).square().sum(dim=1) for rows, each in pieces])


def _assign_block(vectors: Float32[Tensor, "row dim"], centres: Centres) -> Int64[Tensor, " row"]:
    margin = centres.margin(vectors)
    found = [_narrowed(vectors, centres, *pairs, margin) for pairs in _candidates(*centres.scores(vectors))]
    rows, candidates = (torch.cat(each) for each in zip(*found, strict=True))
    centre = torch.empty(len(vectors), dtype=torch.int64, device=vectors.device)
    centre[rows] = candidates  # settled where one is left
    several = torch.bincount(rows, minlength=len(vectors))[rows] > 1
    if several.any():
        rows, candidates = rows[several], candidates[several]
        centre[rows] = _settled(vectors, centres.exact, rows, candidates)[rows]
    return centre


def _candidates(
    scores: Shaped[Tensor, "tile row member"], margin: Shaped[Tensor, "row 1"]
) -> Iterator[tuple[Int64[Tensor, " pair"], Int64[Tensor, " pair"]]]:
    """Yield rows and the centres that may be their nearest, in pieces of bounded size."""
    count, _, tile = scores.shape
    grouped = scores.view(count, -1, tile // GROUP, GROUP)  # [tile, row, group, GROUP]
    best_of_group = grouped.amax(dim=3)  # [tile, row, group]
    least = best_of_group.amax(dim=(0, 2))[:, None] - margin  # [row, 1]
    hits = (best_of_group >= least).nonzero()
    for hit in torch.split(hits, HITS):
        number, row, group = hit.T
        pairs, members = (grouped[number, row, group] >= least[row]).nonzero(as_tuple=True)
        candidates = number[pairs] * tile + group[pairs] * GROUP + members
        yield from zip(torch.split(row[pairs], PAIRS), torch.split(candidates, PAIRS), strict=True)


def _narrowed(
    vectors: Float32[Tensor, "row dim"],
    centres: Centres,
    rows: Int64[Tensor, " pair"],
    candidates: Int64[Tensor, " pair"],
    margin: Float32[Tensor, "row 1"],
) -> tuple[Int64[Tensor, " left"], Int64[Tensor, " left"]]:
    """Keep the pairs that may still be the nearest by their products in float32."""
    scores = (vectors[rows] * centres.exact[candidates]).sum(dim=1) + centres.bias[candidates]
    best = torch.full_like(margin[:, 0], -torch.inf).scatter_reduce(0, rows, scores, "amax")
    good = scores >= (best - margin[:, 0])[rows]
    return rows[good], candidates[good]


def _settled(
    vectors: Float32[Tensor, "row dim"],
    centres: Float32[Tensor, "centre dim"],
    rows: Int64[Tensor, " pair"],
    candidates: Int64[Tensor, " pair"],
) -> Int64[Tensor, " row"]:
    """Return the nearest of the candidates of each row, of equal ones the first; rows without any have no meaning."""
    nearest = torch.full((len(vectors),), torch.inf, dtype=torch.float64, device=vectors.device)
    none = torch.full((len(vectors),), len(centres), device=vectors.device)
    centre = none
    for row, candidate in zip(torch.split(rows, PAIRS), torch.split(candidates, PAIRS), strict=True):
        distances = (vectors[row].double() - centres[candidate].double()).square().sum(dim=1)
        nearer = nearest.scatter_reduce(0, row, distances, "amin")
        first = distances == nearer[row]
        found = none.scatter_reduce(0, row[first], candidate[first], "amin")
        centre = torch.where(nearer < nearest, found, torch.minimum(centre, found))
        nearest = nearer
    return centre
