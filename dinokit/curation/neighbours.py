"""Nearest neighbours by cosine, out of core: large products find the few pairs that matter, which are settled exactly.

A block of rows meets the others tile by tile. A product of matrices rounds as its tiles happen to be cut; the margin
bounds that error, so whatever could be among the k nearest, or above the threshold, is kept, and its cosine is computed
in float64 from the stored float16. So the answer depends neither on tiles nor on ranks, and of equal neighbours the
lower row comes first.

Rows may lie in cells (`cells.py`), and a block then meets only the cells that its own one visits: the inverted file of
faiss, but the rows of a cell are searched together, by one product instead of one scan each, and its lists are rows of
the pool, so that nothing of its size is held in memory. Without cells all rows are in one, and the answer is exact.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor
from torch.nn import functional

from dinokit.curation.vectors import Vectors

QUERIES, TILE = 2048, 4096  # rows of a block, and of those that it meets at a time: 32 MiB of products
GROUP = 32  # neighbouring columns of which the best is looked for first: a quarter of the cost of looking at all
PAIRS = 4096  # settled at a time


@dataclass(frozen=True)
class Edges:
    """Pairs of rows, by the first; the most similar first, of equal ones the lower row."""

    rows: Int64[np.ndarray, " pair"]
    others: Int64[np.ndarray, " pair"]
    similarity: Float32[np.ndarray, " pair"]

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
        device: torch.device | None = None,
    ) -> None:
        """Prepare a search; nothing is computed.

        Args:
            gallery: where neighbours are looked for. None: among the queries, each without itself.
            k: neighbours of a query, at most.
            above: a pair counts if its cosine is larger; None: every pair.
            visits: for each cell of the queries, the cells of the gallery that it looks into.
            exactly: settle pairs in float64; else their order may err where they are equal up to rounding.
        """
        assert k > 0
        assert len(visits) == len(queries.ends)
        self.queries, self.gallery, self.among = queries, gallery or queries, gallery is None
        assert self.queries.vectors.dim == self.gallery.vectors.dim
        self.k, self.above, self.visits, self.exactly = k, above, visits, exactly
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
        queries = self.queries.unit(own, self.device)
        found = _Candidates(len(own), self.k, self.above, dim=queries.shape[1], device=self.device)
        for met in self._tiles(cell):
            scores = self._scores(queries, self.gallery.unit(met, self.device))
            if self.among:
                _, here, there = np.intersect1d(own, met, assume_unique=True, return_indices=True)
                scores[torch.from_numpy(here), torch.from_numpy(there)] = -torch.inf
            found.add(scores, met)
            crowd = found.crowd()
            if len(crowd):
                found.drop(np.delete(crowd, self._nearest(own, found, crowd)[0]))
        edges = self._nearest(own, found, np.arange(len(found.queries)))[1]
        return edges if self.above is None else edges.some(edges.similarity > np.float32(self.above))

    def _scores(
        self, queries: Float32[Tensor, "query dim"], met: Float32[Tensor, "met dim"]
    ) -> Float32[Tensor, "query column"]:
        """Multiply; columns that only fill up the last group are -inf. The next call writes to the same memory."""
        columns = -(-len(met) // GROUP) * GROUP
        scores = self._memory[: len(queries) * columns].view(len(queries), columns)
        scores[:, len(met) :] = -torch.inf
        torch.mm(queries, met.T, out=scores[:, : len(met)])
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

    def _nearest(
        self, own: Int64[np.ndarray, " query"], found: "_Candidates", pairs: Int64[np.ndarray, " pair"]
    ) -> tuple[Int64[np.ndarray, " kept"], Edges]:
        """Return which of some pairs are the k nearest of each query, in the order of their exact similarity."""
        queries, places = found.queries[pairs], found.places[pairs]
        rows, others, similarity = self.queries.rows[own[queries]], self.gallery.rows[places], found.scores[pairs]
        if self.exactly:
            similarity = cosines(self.queries.vectors, rows, self.gallery.vectors, others)
        order = np.lexsort((others, -similarity, queries))
        order = order[places_of(queries[order]) < self.k]
        return order, Edges(rows, others, similarity).some(order)


class _Candidates:
    """Pairs that may be among the nearest, by their rounded scores."""

    def __init__(self, count: int, k: int, above: float | None, *, dim: int, device: torch.device) -> None:
        self.k = k
        # dim roundings of a product and half as many of either length misjudge a score at most, here of two together
        self.margin = (2 * dim + 6) * torch.finfo(torch.float32).eps
        # a score below this one cannot count
        self.least = torch.full((count, 1), -torch.inf if above is None else above - self.margin, device=device)
        self.queries: Int64[np.ndarray, " pair"] = np.empty(0, np.int64)
        self.places: Int64[np.ndarray, " pair"] = np.empty(0, np.int64)
        self.scores: Float32[np.ndarray, " pair"] = np.empty(0, np.float32)

    def add(self, scores: Float32[Tensor, "query column"], met: Int64[np.ndarray, " met"]) -> None:
        """Look through the scores of a tile; those of the columns behind `met` are -inf."""
        grouped = scores.view(len(scores), -1, GROUP)  # [query, group, GROUP]
        best = grouped.amax(dim=2)
        if self.least.min() == -torch.inf:  # nothing is known yet: k groups hold k scores as good as the worst of them
            several = best if best.shape[1] >= self.k else scores
            if several.shape[1] >= self.k:
                torch.maximum(self.least, several.topk(self.k).values[:, -1:] - self.margin, out=self.least)
        queries, groups = (best >= self.least).nonzero(as_tuple=True)
        inside = grouped[queries, groups]  # [hit, GROUP]
        hits, members = ((inside >= self.least[queries]) & (inside > -torch.inf)).nonzero(as_tuple=True)
        columns = groups[hits] * GROUP + members
        self.queries = np.concatenate([self.queries, queries[hits].cpu().numpy()])
        self.places = np.concatenate([self.places, met[columns.cpu().numpy()]])
        self.scores = np.concatenate([self.scores, inside[hits, members].cpu().numpy()])
        # raise what must be reached, and drop what does not
        order = np.lexsort((-self.scores, self.queries))
        last = order[places_of(self.queries[order]) == self.k - 1]
        worst = torch.from_numpy(self.scores[last] - np.float32(self.margin)).to(self.least.device)
        full = torch.from_numpy(self.queries[last]).to(self.least.device)
        self.least[full, 0] = torch.maximum(self.least[full, 0], worst)
        self.drop(np.flatnonzero(self.scores < self.least.cpu().numpy()[self.queries, 0]))

    def crowd(self) -> Int64[np.ndarray, " pair"]:
        """Return the pairs of queries that have far more than k; of thousands of equal rows all would stay."""
        return np.flatnonzero((np.bincount(self.queries) > 2 * self.k + GROUP)[self.queries])

    def drop(self, pairs: Int64[np.ndarray, " pair"]) -> None:
        """Drop some pairs."""
        self.queries, self.places, self.scores = (
            np.delete(each, pairs) for each in (self.queries, self.places, self.scores)
        )


def cosines(
    left: Vectors, rows: Int64[np.ndarray, " pair"], right: Vectors, others: Int64[np.ndarray, " pair"]
) -> Float32[np.ndarray, " pair"]:
    """Compute the cosine of each pair, in float64 from the stored numbers."""
    found = np.empty(len(rows), dtype=np.float32)
    for start in range(0, len(rows), PAIRS):
        part = slice(start, start + PAIRS)
        first, second = (torch.from_numpy(each).float() for each in (left.take(rows[part]), right.take(others[part])))
        # the product of two float16 is exact in float32
        inner, one, other = (
            (a * b).sum(dim=1, dtype=torch.float64) for a, b in ((first, second), (first, first), (second, second))
        )
        found[part] = (inner / (one * other).sqrt()).numpy()
    return found


def places_of(sorted_numbers: Int64[np.ndarray, " entry"]) -> Int64[np.ndarray, " entry"]:
    """Count the entries of each run of equal numbers from 0."""
    new = np.ones(len(sorted_numbers), dtype=bool)
    new[1:] = sorted_numbers[1:] != sorted_numbers[:-1]
    starts = np.flatnonzero(new)
    return np.arange(len(sorted_numbers)) - np.repeat(starts, np.diff(np.append(starts, len(sorted_numbers))))
