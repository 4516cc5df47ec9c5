"""Cells: rows that lie near the same centre, so that a search may pass by those whose cells are far away.

A row visits the cells of the `probes` centres that are nearest to it, and all rows of a cell share their visits: they
are searched by one product, and whom one of them visits costs the others nothing but time. A pair is found if either of
its rows visits the other's cell. How many probes it takes is not guessed: some rows are searched exactly first, and
what they find says it (`needed`). Source of the inverted file: Sivic and Zisserman 2003; of probes: Jegou, Douze and
Schmid 2011 (doi:10.1109/TPAMI.2010.57).
"""

import math
from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Float16, Int64

from dinokit.core import device as devices
from dinokit.core.seed import generator
from dinokit.curation.kmeans import lloyd
from dinokit.curation.neighbours import Edges, Ordered, Search, places_of
from dinokit.curation.vectors import Vectors

SAMPLE = 1024  # rows that are searched exactly
PER_CELL = 64  # rows that the centres are fitted to, for each
ROUNDS = 8  # of k-means: the cells only have to be compact
RECALL = 0.995  # of the pairs that the sample found: probes reach so many by themselves
OFTEN = 0.02  # visits that fewer of a cell's rows make cost half of the time, for a pair in two thousand
PROBES = 8  # where the sample found none
_SCORES = 1 << 24  # numbers of a product

Visits = list[Int64[np.ndarray, " visited"]]


def count_of(rows: int) -> int:
    """Return how many cells are best: finding the nearest centres then takes about as long as looking into cells."""
    return max(math.isqrt(2 * rows), 1)


def fit(
    vectors: Vectors, rows: Int64[np.ndarray, " row"], *, count: int, seed: int, device: torch.device
) -> Float16[np.ndarray, "cell dim"]:
    """Fit the centres of the cells to a sample of some rows, by k-means from random ones; all ranks call together."""
    sample = vectors.subset(generator(seed, 0).choice(rows, min(len(rows), PER_CELL * count), replace=False))
    centres = torch.from_numpy(sample.read(0, count)).to(devices.exact(device)).float()
    for _, moved in lloyd(sample, centres, iterations=ROUNDS):
        centres = moved
    return centres.half().cpu().numpy()


def needed(
    queries: Ordered,
    gallery: Ordered,
    centres: Vectors,
    *,
    k: int,
    above: float | None,
    same: bool,
    seed: int,
    device: torch.device,
) -> tuple[int, int]:
    """Find out how many probes it takes, by searching a sample of the queries exactly.

    Args:
        same: queries and gallery are the same rows, and a pair is found from either side.

    Returns:
        The number, and how many pairs of the sample say so; with none of them it is a guess.
    """
    chosen = generator(seed, 1).choice(len(queries.rows), min(len(queries.rows), SAMPLE), replace=False)
    sample = Ordered.single(queries.vectors, queries.rows[np.sort(chosen)])
    search = Search(sample, gallery, k=k + same, above=above, device=device)  # a row finds itself too
    edges = Edges.concatenate([search.block(number) for number in range(len(search))])
    edges = edges.some(edges.rows != edges.others) if same else edges
    if not len(edges):
        return min(PROBES, len(centres)), 0
    ranks = np.concatenate(
        [
            _ranks(queries.vectors, edges.rows[part], gallery.vectors, edges.others[part], centres, same=same)
            for part in _parts(len(edges), len(centres))
        ]
    )
    return int(np.sort(ranks)[math.ceil(RECALL * len(ranks)) - 1]) + 1, len(edges)


def arrange(vectors: Vectors, nearest: Iterable[Edges], *, count: int, often: float = 0.0) -> tuple[Ordered, Visits]:
    """Put rows in the order of their cells.

    Args:
        nearest: for every row, its nearest centres, the nearest first; part by part.
        count: of cells.
        often: the share of a cell's rows that must visit another one, for the cell to do so.

    Returns:
        The rows, and for every cell those that its rows visit.
    """
    rows, own = [np.empty(0, np.int64)], [np.empty(0, np.int32)]
    pairs, visitors = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for part in nearest:
        first = np.flatnonzero(places_of(part.rows) == 0)
        rows.append(part.rows[first])
        own.append(part.others[first].astype(np.int32))
        cells = np.repeat(part.others[first], np.diff(np.append(first, len(part))))
        for found, each in zip(
            (pairs, visitors), np.unique(cells * count + part.others, return_counts=True), strict=True
        ):
            found.append(each)
    cell = np.concatenate(own)
    order, sizes = np.argsort(cell, kind="stable"), np.bincount(cell, minlength=count)
    pair, which = np.unique(np.concatenate(pairs), return_inverse=True)
    total = np.bincount(which, weights=np.concatenate(visitors), minlength=len(pair))
    pair = pair[total >= often * sizes[pair // count]]
    return Ordered(vectors, np.concatenate(rows)[order], np.cumsum(sizes)), _visits(pair, count)


def _visits(pairs: Int64[np.ndarray, " pair"], count: int) -> Visits:
    """Divide sorted numbers (cell * count + visited) by cell."""
    return np.split(pairs % count, np.searchsorted(pairs, np.arange(1, count) * count))


def _parts(pairs: int, count: int) -> list[slice]:
    step = max(_SCORES // count, 1)
    return [slice(start, start + step) for start in range(0, pairs, step)]


def _ranks(
    left: Vectors,
    rows: Int64[np.ndarray, " pair"],
    right: Vectors,
    others: Int64[np.ndarray, " pair"],
    centres: Vectors,
    *,
    same: bool,
) -> Int64[np.ndarray, " pair"]:
    """Count for each pair the centres that are nearer to its row than that of the other's cell, or the other way."""
    cpu = torch.device("cpu")
    points = Ordered.single(centres).unit(np.arange(len(centres)), cpu).T
    here = Ordered.single(left, rows).unit(np.arange(len(rows)), cpu) @ points  # [pair, cell]
    there = Ordered.single(right, others).unit(np.arange(len(rows)), cpu) @ points
    ranks = (here > here.gather(1, there.argmax(dim=1, keepdim=True))).sum(dim=1)
    if same:
        ranks = torch.minimum(ranks, (there > there.gather(1, here.argmax(dim=1, keepdim=True))).sum(dim=1))
    return ranks.numpy()
