"""The nearest centre of every vector: large products choose a few, which are then settled exactly.

    nearest(x) = argmax_c  x . c - |c|^2 / 2         x, c: about the mean of the centres

A product of matrices rounds, in float32 as its blocks happen to be cut, or to whole numbers (integers.py). A margin
bounds that error, so the true nearest centre is always among those within it of the best score. Where several are,
float32 pair by pair leaves those within its own margin; where several still are, distances in float64 decide, a piece
at a time where many are nearly equal. So the answer is exact, does not depend on how the rows are divided among blocks,
ranks or devices, and of equal centres the first is taken.

Centres lie in the order of their lengths, so that |c|^2 / 2 hardly differs within a group of them: the largest product
of a group bounds its best score from both sides, and what is added to each product is added once per group.
"""

from collections.abc import Iterator
from functools import cached_property

import torch
from jaxtyping import Float, Float16, Float32, Float64, Int32, Int64, Shaped
from numpy import ndarray
from torch import Tensor
from torch.nn import functional

from dinokit.curation import integers

ROWS, TILE = 1024, 2048  # of a product
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
        self.middle = centres.double().mean(dim=0).float()
        self.about = centres - self.middle
        self.halves = self.about.double().square().sum(dim=1) / 2
        self.order = self.halves.argsort(stable=True)
        sorted_halves = self.halves[self.order].float()
        # what only fills up the last tile is never the nearest
        self.by_group = functional.pad(sorted_halves, (0, fill), value=torch.inf).view(-1, GROUP)
        self.low = self.by_group[:, 0]
        last = torch.arange(GROUP - 1, count + fill, GROUP, device=centres.device).clamp(max=count - 1)
        self.high = torch.where(self.low < torch.inf, sorted_halves[last], torch.inf)
        self.longest = float(self.halves.max().mul(2).sqrt())
        # of a product, and of taking the mean from both sides
        self.rounding = (dim + 4) * torch.finfo(torch.float32).eps
        self.rows = min(max(SCORES // (count + fill), 16), ROWS)  # of a block
        kind = integers.Integers if count >= FROM * dim and integers.are_fast(centres.device) else Floats
        self.product = kind(self.about[self.order], fill=fill)

    def margin(self, vectors: Float32[Tensor, "row dim"]) -> Float32[Tensor, "row 1"]:
        """Return by how much two scores of a row in float32 may be misjudged together, of vectors about the mean."""
        sizes = vectors.square().sum(dim=1, keepdim=True).sqrt()
        return self.rounding * self.longest * (sizes + self.longest / 2)

    def candidates(
        self, vectors: Float32[Tensor, "row dim"], margin: Float32[Tensor, "row 1"]
    ) -> Iterator[tuple[Int64[Tensor, " pair"], Int64[Tensor, " pair"]]]:
        """Yield rows and the centres that may be their nearest, in pieces of bounded size; consume before the next."""
        rows, unit, more = self.product.prepare(vectors)
        tiles = self._memory[: self.by_group.numel() * len(vectors)].view(-1, len(vectors), self.tile)
        largest = torch.empty(*tiles.shape[:2], self.tile // GROUP, dtype=tiles.dtype, device=tiles.device)
        for number, tile in enumerate(tiles):
            self.product.multiply(rows, slice(number * self.tile, (number + 1) * self.tile), tile)
            torch.amax(tile.view(len(vectors), -1, GROUP), dim=2, out=largest[number])
        scores = largest.float() * unit  # [tile, row, group]
        low, high = (each.view(len(tiles), 1, -1) for each in (self.low, self.high))
        least = (scores - high).amax(dim=(0, 2))[:, None] - margin - more  # [row, 1]
        hits = (scores - low >= least).nonzero()
        grouped = tiles.view(len(tiles), len(vectors), -1, GROUP)
        for hit in torch.split(hits, HITS):
            number, row, group = hit.T
            place = number * (self.tile // GROUP) + group
            inside = grouped[number, row, group].float() * unit - self.by_group[place]  # [hit, GROUP]
            pairs, members = (inside >= least[row]).nonzero(as_tuple=True)
            centres = self.order[place[pairs] * GROUP + members]
            yield from zip(torch.split(row[pairs], PAIRS), torch.split(centres, PAIRS), strict=True)

    @cached_property
    def _memory(self) -> Shaped[Tensor, " number"]:
        """New memory for each block would take as long as its products."""
        return torch.empty(self.by_group.numel() * self.rows, dtype=self.product.dtype, device=self.exact.device)


class Floats:
    """Products in float32, see `integers.Integers`."""

    dtype = torch.float32

    def __init__(self, vectors: Float32[Tensor, "centre dim"], *, fill: int) -> None:
        self.vectors = functional.pad(vectors, (0, 0, 0, fill))

    def prepare(self, vectors: Float32[Tensor, "row dim"]) -> tuple[Float32[Tensor, "row dim"], float, float]:
        """Return the rows; the margin of a score in float32 is all there is."""
        return vectors, 1.0, 0.0

    def multiply(self, rows: Float32[Tensor, "row dim"], part: slice, out: Float32[Tensor, "row centre"]) -> None:
        """Write the products with some of the vectors."""
        torch.mm(rows, self.vectors[part].T, out=out)


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
    about = vectors - centres.middle
    margin = centres.margin(about)
    found = [_narrowed(about, centres, *pairs, margin) for pairs in centres.candidates(about, margin)]
    rows, candidates = (torch.cat(each) for each in zip(*found, strict=True))
    centre = torch.empty(len(vectors), dtype=torch.int64, device=vectors.device)
    centre[rows] = candidates  # settled where one is left
    several = torch.bincount(rows, minlength=len(vectors))[rows] > 1
    if several.any():
        rows, candidates = rows[several], candidates[several]
        centre[rows] = _settled(vectors, centres.exact, rows, candidates)[rows]
    return centre


def _narrowed(
    about: Float32[Tensor, "row dim"],
    centres: Centres,
    rows: Int64[Tensor, " pair"],
    candidates: Int64[Tensor, " pair"],
    margin: Float32[Tensor, "row 1"],
) -> tuple[Int64[Tensor, " left"], Int64[Tensor, " left"]]:
    """Keep the pairs that may still be the nearest by their products in float32."""
    scores = (about[rows] * centres.about[candidates]).sum(dim=1) - centres.halves[candidates].float()
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
