"""Nearest neighbours by cosine, out of core: large products find the few pairs that matter, which are settled exactly.

A block of rows meets the others tile by tile. A product of matrices rounds as its tiles happen to be cut; a bound of
that error is known, so whatever could be among the k nearest, or above the threshold, is kept, and its cosine is
computed in float64 from the stored numbers. So the answer depends neither on tiles nor on ranks, and of equal
neighbours the lower row comes first.

    q . g = (q - m) . (g - m) + m . (g - m) + a number of q        for any m, such as the mean of the rows

Rounding errs by a share of |q - m| |g - m|, so the cosines of features that differ from each other in their fifth digit
alone are bounded as well as any.

Rows may lie in cells (`cells.py`), and a block then meets only the cells that its own one visits: the inverted file of
faiss, but the rows of a cell are searched together, by one product instead of one scan each, and its lists are rows of
the pool, so that nothing of its size is held in memory. Without cells all rows are in one, and the answer is exact.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import final

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64
from torch import Tensor
from torch.nn import functional

from dinokit.curation.vectors import Vectors

QUERIES, TILE = 2048, 4096  # rows of a block, and of those that it meets at a time: 32 MiB of products
GROUP = 32  # columns of which the best is looked for first: a quarter of the cost of looking at all
PAIRS = 4096  # read at a time to be settled
CACHED = 1 << 18  # numbers of them that are multiplied at a time
ROOM = 1 << 20  # pairs of a block that wait, beyond two answers to every query, before the hopeless ones are dropped


@dataclass(frozen=True)
class Edges:
    """Pairs of rows, by the first; the most similar first, of equal ones the lower row."""

    rows: Int64[np.ndarray, " pair"]
    others: Int64[np.ndarray, " pair"]
    similarity: Float[np.ndarray, " pair"]  # float32 of rows of float16, else float64

    def __len__(self) -> int:
        return len(self.rows)

    def some(self, chosen: Int64[np.ndarray, " chosen"] | Bool[np.ndarray, " pair"]) -> "Edges":
        """Return the pairs that an index or a mask chooses."""
        return Edges(self.rows[chosen], self.others[chosen], self.similarity[chosen])

    @staticmethod
    def concatenate(parts: Sequence["Edges"]) -> "Edges":
        """Join several, in their order."""
        if not parts:
            return Edges(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
        return Edges(*(np.concatenate([getattr(part, name) for part in parts]) for name in Edges.__annotations__))


@dataclass(frozen=True)
class Ordered:
    """Rows that take part, cell by cell."""

    vectors: Vectors
    rows: Int64[np.ndarray, " place"]
    ends: Int64[np.ndarray, " cell"]  # the place where each cell ends

    @classmethod
    def single(cls, vectors: Vectors, rows: Int64[np.ndarray, " place"] | None = None) -> "Ordered":
        """Put some rows, or all, into one cell."""
        rows = np.arange(len(vectors)) if rows is None else rows
        return cls(vectors, rows, np.array([len(rows)]))

    @cached_property
    def starts(self) -> Int64[np.ndarray, " cell"]:
        """The place where each cell starts."""
        return np.concatenate([[0], self.ends[:-1]])

    def unit(self, places: Int64[np.ndarray, " wanted"], device: torch.device) -> Float32[Tensor, "wanted dim"]:
        """Return the vectors at some places, of length 1."""
        return functional.normalize(torch.from_numpy(self.vectors.take(self.rows[places])).to(device).float())


@dataclass(frozen=True)
class _Rows:
    """Rows that are multiplied, and what bounds the rounding of it."""

    vectors: Float32[Tensor, "row dim"]
    lengths: Float32[Tensor, "row 1"]
    bias: Float32[Tensor, " row"] | None  # of their scores as columns


@final
class Search:
    """The k nearest rows of a gallery for every query, or the pairs within one set of rows; block by block.

    `block` may be asked for in any order and by any rank.
    """

    def __init__(
        self,
        queries: Ordered,
        gallery: Ordered | None = None,
        *,
        k: int,
        above: float | None = None,
        visits: Sequence[Int64[np.ndarray, " visited"]] = (np.zeros(1, dtype=np.int64),),
        exactly: bool = True,
        middle: Float64[np.ndarray, " dim"] | None = None,
        device: torch.device | None = None,
    ) -> None:
        """Prepare a search; nothing is computed.

        Args:
            gallery: where neighbours are looked for. None: among the queries, each without itself.
            k: neighbours of a query, at most.
            above: a pair counts if its cosine is larger; None: every pair.
            visits: for each cell of the queries, the cells of the gallery that it looks into.
            exactly: settle pairs in float64; else their order may err where they are equal up to rounding.
            middle: about which products are taken: the nearer the rows, the fewer pairs need to be settled. None: zero.
        """
        assert k > 0
        assert len(visits) == len(queries.ends)
        assert middle is None or (above is None and exactly)  # scores about it are no cosines
        self.queries, self.gallery, self.among = queries, gallery or queries, gallery is None
        assert self.queries.vectors.dim == self.gallery.vectors.dim
        self.k, self.above, self.visits, self.exactly = k, above, visits, exactly
        self.middle = None if middle is None else torch.from_numpy(middle)
        self.device = device or torch.device("cpu")
        sizes = queries.ends - queries.starts
        counts = -(-sizes // QUERIES)
        self._cells = np.repeat(np.arange(len(sizes)), counts)  # of each block
        nth = np.arange(len(self._cells)) - np.repeat(np.cumsum(counts) - counts, counts)
        self._starts = queries.starts[self._cells] + nth * QUERIES

    def __len__(self) -> int:
        """Return the number of blocks."""
        return len(self._cells)

    def block(self, number: int) -> Edges:
        """Compute the pairs of one block of queries."""
        cell, start = int(self._cells[number]), int(self._starts[number])
        own = np.arange(start, min(start + QUERIES, int(self.queries.ends[cell])))
        queries = self._rows(self.queries, own)
        found = _Candidates(len(own), self.k, self.above, device=self.device)
        for met in self._tiles(cell):
            columns = self._rows(self.gallery, met)
            scores = self._scores(queries, columns)
            if self.among:
                _, here, there = np.intersect1d(own, met, assume_unique=True, return_indices=True)
                scores[torch.from_numpy(here), torch.from_numpy(there)] = -torch.inf
            found.add(scores, met, _error(queries, columns))
            if len(found) > ROOM + 2 * self.k * len(own):
                found.prune()
                if len(found) > ROOM // 2 + self.k * len(own):  # equal up to rounding
                    found.keep(self._without_copies(found))
                    found.keep(self._settled(own, found)[0])
        found.prune()
        chosen, edges = self._settled(own, found)
        return edges.some(chosen)

    def _rows(self, side: Ordered, places: Int64[np.ndarray, " row"]) -> _Rows:
        """Read rows of length 1, about the middle."""
        if self.middle is None:
            vectors = side.unit(places, self.device)
            return _Rows(vectors, torch.ones_like(vectors[:, :1]), None)
        exact = functional.normalize(torch.from_numpy(side.vectors.take(side.rows[places])).double()) - self.middle
        numbers = exact, exact.norm(dim=1, keepdim=True), exact @ self.middle
        return _Rows(*(each.float().to(self.device) for each in numbers))

    def _scores(self, queries: _Rows, met: _Rows) -> Float32[Tensor, "query column"]:
        """Multiply; columns that only fill up the last group are -inf. The next call writes to the same memory."""
        count, filled = len(met.vectors), -(-len(met.vectors) // GROUP) * GROUP
        scores = self._memory[: len(queries.vectors) * filled].view(len(queries.vectors), filled)
        scores[:, count:] = -torch.inf
        if met.bias is None:
            torch.mm(queries.vectors, met.vectors.T, out=scores[:, :count])
        else:
            torch.addmm(met.bias, queries.vectors, met.vectors.T, out=scores[:, :count])
        return scores

    @cached_property
    def _memory(self) -> Float32[Tensor, " number"]:
        return torch.empty(QUERIES * TILE, device=self.device)  # new memory for each product would cost a fifth more

    def _tiles(self, cell: int) -> Iterator[Int64[np.ndarray, " met"]]:
        """Yield the places that a cell looks into, so many at a time."""
        visited = self.visits[cell]
        starts, ends = self.gallery.starts[visited].tolist(), self.gallery.ends[visited].tolist()
        places = np.concatenate([np.arange(start, end) for start, end in zip(starts, ends, strict=True)])
        for first in range(0, len(places), TILE):
            yield places[first : first + TILE]

    def _settled(
        self, own: Int64[np.ndarray, " query"], found: "_Candidates"
    ) -> tuple[Int64[np.ndarray, " chosen"], Edges]:
        """Return all pairs that are found and which of them are the k nearest of each query, in their order."""
        rows, others = self.queries.rows[own[found.queries]], self.gallery.rows[found.places]
        edges = Edges(rows, others, found.scores)
        if self.exactly:
            edges = Edges(rows, others, cosines(self.queries.vectors, rows, self.gallery.vectors, others))
        order = np.lexsort((others, -edges.similarity, found.queries))
        if self.above is not None:
            order = order[edges.similarity[order] > edges.similarity.dtype.type(self.above)]
        return order[places_of(found.queries[order]) < self.k], edges

    def _without_copies(self, found: "_Candidates") -> Int64[np.ndarray, " chosen"]:
        """Choose of the pairs of a query with equal rows the k of the lowest rows."""
        others, of_pair = np.unique(self.gallery.rows[found.places], return_inverse=True)
        digests = [
            blake2b(row.tobytes(), digest_size=16).digest()
            for start in range(0, len(others), TILE)
            for row in self.gallery.vectors.take(others[start : start + TILE])
        ]
        twins = np.unique(np.frombuffer(b"".join(digests), dtype="V16"), return_inverse=True)[1][of_pair]
        order = np.lexsort((of_pair, twins, found.queries))
        return order[places_of((found.queries * len(others) + twins)[order]) < self.k]


class _Candidates:
    """Pairs that may be among the nearest, by their rounded scores."""

    def __init__(self, count: int, k: int, above: float | None, *, device: torch.device) -> None:
        self.k = k
        # k scores are at least as large, whatever rounding has done; smaller ones cannot count
        self.least = torch.full((count, 1), -torch.inf if above is None else above, device=device)
        self.error = torch.zeros(count, 1, device=device)  # of a score, at most
        self._top = torch.empty(count, 0, device=device)  # up to k scores, less their errors
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = [
            (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
        ]
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def queries(self) -> Int64[np.ndarray, " pair"]:
        """The query of each pair, by its place in the block."""
        return self._columns()[0]

    @property
    def places(self) -> Int64[np.ndarray, " pair"]:
        """The place of the other row in the gallery."""
        return self._columns()[1]

    @property
    def scores(self) -> Float32[np.ndarray, " pair"]:
        """What the product has given."""
        return self._columns()[2]

    def add(
        self, scores: Float32[Tensor, "query column"], met: Int64[np.ndarray, " met"], error: Float32[Tensor, "query 1"]
    ) -> None:
        """Look through the scores of a tile; those of the columns behind `met` are -inf.

        Args:
            error: by how much a score of this tile may err.
        """
        # groups of columns that lie apart: those that belong together often follow each other
        grouped = scores.view(len(scores), GROUP, -1)  # [query, GROUP, group]
        best = grouped.amax(dim=1)
        # the best of groups are distinct scores as well, and a bound nearly as high
        several = best if max(self._top.shape[1], best.shape[1] // 2) >= self.k else scores
        nearest = several.topk(min(self.k, several.shape[1]), sorted=False).values - error
        self._top = torch.cat([self._top, nearest], dim=1)
        self._top = self._top.topk(min(self.k, self._top.shape[1]), sorted=False).values
        if self._top.shape[1] == self.k:
            torch.maximum(self.least, self._top.amin(dim=1, keepdim=True), out=self.least)
        torch.maximum(self.error, error, out=self.error)
        wanted = self.least - error
        queries, groups = (best >= wanted).nonzero(as_tuple=True)
        inside = grouped[queries, :, groups]  # [hit, GROUP]
        hits, members = ((inside >= wanted[queries]) & (inside > -torch.inf)).nonzero(as_tuple=True)
        columns = members * grouped.shape[2] + groups[hits]
        part = queries[hits].cpu().numpy(), met[columns.cpu().numpy()], inside[hits, members].cpu().numpy()
        self._parts.append(part)
        self._count += len(part[0])

    def prune(self) -> None:
        """Drop pairs of queries that have k better ones, whatever rounding has done."""
        queries, _, scores = self._columns()
        error = self.error.cpu().numpy()[queries, 0]
        order = np.lexsort((error - scores, queries))
        last = order[places_of(queries[order]) == self.k - 1]
        least = self.least.cpu().numpy()[:, 0]
        least[queries[last]] = np.maximum(least[queries[last]], scores[last] - error[last])
        self.least[:, 0] = torch.from_numpy(least)
        self.keep(np.flatnonzero(scores + error >= least[queries]))

    def keep(self, chosen: Int64[np.ndarray, " chosen"]) -> None:
        """Drop all other pairs."""
        queries, places, scores = self._columns()
        self._parts, self._count = [(queries[chosen], places[chosen], scores[chosen])], len(chosen)

    def _columns(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if len(self._parts) > 1:
            first, second, third = zip(*self._parts, strict=True)
            self._parts = [(np.concatenate(first), np.concatenate(second), np.concatenate(third))]
        return self._parts[0]


def _error(queries: _Rows, met: _Rows) -> Float32[Tensor, "query 1"]:
    """Bound what rounding does to a score: dim roundings of a product, and half as many of either length."""
    dim, unit = queries.vectors.shape[1], torch.finfo(torch.float32).eps / 2
    if met.bias is None:
        return (2 * dim + 10) * unit * met.lengths.max() * queries.lengths
    # lengths were made 1 in float64
    return (dim + 10) * unit * met.lengths.max() * queries.lengths + 4 * unit * met.bias.abs().max()


def cosines(
    left: Vectors, rows: Int64[np.ndarray, " pair"], right: Vectors, others: Int64[np.ndarray, " pair"]
) -> Float[np.ndarray, " pair"]:
    """Compute the cosine of each pair, in float64 from the stored numbers; of a row of zeros it is 0."""
    halves = left.dtype == right.dtype == np.float16
    wide = torch.float32 if halves else torch.float64  # where the product of two stored numbers is exact
    found = np.empty(len(rows), dtype=np.float32 if halves else np.float64)
    one, other = _squares(left, rows, wide), _squares(right, others, wide)
    for start in range(0, len(rows), PAIRS):
        part = slice(start, start + PAIRS)
        inner = _inner(left.take(rows[part]), right.take(others[part]), wide)
        found[part] = (inner / (one[part] * other[part]).sqrt().clamp(min=torch.finfo(torch.float64).tiny)).numpy()
    return found


def _squares(vectors: Vectors, rows: Int64[np.ndarray, " pair"], wide: torch.dtype) -> Float64[Tensor, " pair"]:
    """Compute the square of the length of the row of each pair, of equal rows once."""
    some, of_pair = np.unique(rows, return_inverse=True)
    parts = (vectors.take(some[start : start + PAIRS]) for start in range(0, len(some), PAIRS))
    squares = [torch.empty(0, dtype=torch.float64), *(_inner(part, part, wide) for part in parts)]
    return torch.cat(squares)[torch.from_numpy(of_pair)]


def _inner(
    first: Float[np.ndarray, "pair dim"], second: Float[np.ndarray, "pair dim"], wide: torch.dtype
) -> Float64[Tensor, " pair"]:
    """Multiply rows that belong together, as many at a time as stay in a processor's cache."""
    step = max(CACHED // first.shape[1], 1)
    pieces = zip(*(torch.split(torch.from_numpy(each), step) for each in (first, second)), strict=True)
    return torch.cat([(a.to(wide) * b.to(wide)).sum(dim=1, dtype=torch.float64) for a, b in pieces])


def places_of(sorted_numbers: Int64[np.ndarray, " entry"]) -> Int64[np.ndarray, " entry"]:
    """Count the entries of each run of equal numbers from 0."""
    new = np.ones(len(sorted_numbers), dtype=bool)
    new[1:] = sorted_numbers[1:] != sorted_numbers[:-1]
    starts = np.flatnonzero(new)
    return np.arange(len(sorted_numbers)) - np.repeat(starts, np.diff(np.append(starts, len(sorted_numbers))))
