"""The rows nearest to a query by cosine: all of them looked at, up to a size, or those that faiss leads to.

Exact: one product in float32, tile by tile; the best of it, and some more, are settled in float64, so that of equal
ones the lower row comes first. Above `EXACT` numbers a graph of faiss (HNSW, Malkov and Yashunin 2018,
arXiv:1603.09320): how far it is followed is not guessed, some queries are asked exactly first, and the search goes as
far as finds `RECALL` of what they find (benchmarks/search.py). They are no rows, which a graph finds more easily: of
350,000 rows it led rows to 99.6 % and new ones of the same kind to 98.0 % of their nearest.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

import numpy
import torch
from jaxtyping import Float32, Int64

from dinokit.core.files import digest, write_atomic
from dinokit.core.messages import UserError, info, library, line_of, slow, warn
from dinokit.core.order import evenly
from dinokit.core.seed import generator
from dinokit.curation.pool import Pool
from dinokit.features.embedding import nearest as best
from dinokit.search.descriptors import By
from dinokit.search.rows import Rows

Kind = Literal["auto", "exact", "faiss"]
EXACT = 1 << 27  # numbers of all rows up to which every search looks at all of them, 350,000 x 384
TILE = 1 << 14  # rows of a product
MORE = 16  # rows beyond those that are asked for that are settled
CLOSE = 1e-5  # between cosines in float32 that are perhaps equal
WIDER = 4  # where too many of the nearest were removed: so many times as many are asked for
MOST = 1024  # and up to how many
LINKS, CARE = 32, 80  # of the graph: neighbours of a row, and how far it looks for them
REACH = (32, 64, 128, 256, 512, 1024)  # how far the graph is followed
RECALL, ASKED, WANTED = 0.993, 256, 10  # of so many nearest, by so many that are asked exactly: 0.99 and a margin
PREFIX, SUFFIX, EXTRA = "rows-", ".faiss", "search"


@dataclass(frozen=True)
class Engine:
    """How rows are found."""

    file: str | None = None  # that faiss looks into; None: exactly
    reach: int = 0
    recall: float = 1.0  # of the ten nearest, of queries that are no rows of the index


@dataclass(frozen=True)
class Found:
    """Rows, the most similar first."""

    rows: Int64[numpy.ndarray, " found"]
    cosines: Float32[numpy.ndarray, " found"]


@final
class Exact:
    """Looks at every row."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def nearest(self, asked: Float32[numpy.ndarray, "query dim"], *, k: int) -> list[Found]:
        """Return the k nearest rows of each query; where more are as near as the last, those of the lowest numbers."""
        queries = torch.from_numpy(asked)
        values = torch.empty(len(asked), 0)
        numbers = torch.empty(len(asked), 0, dtype=torch.int64)
        for some, rows in self._rows.blocks():
            for first in range(0, len(some), TILE):
                tile = queries @ torch.from_numpy(rows[first : first + TILE]).T  # [query, row]
                most, places = tile.topk(min(k + MORE, tile.shape[1]))
                numbers = torch.cat([numbers, torch.from_numpy(some)[first + places]], dim=1)
                values, places = torch.cat([values, most], dim=1).topk(min(k + MORE, numbers.shape[1]))
                numbers = numbers.gather(1, places)
        cut = values.shape[1] < len(self._rows)
        return [
            self._of_many(query, float(most[k - 1]) - CLOSE, k=k)
            if cut and most[-1] >= most[k - 1] - CLOSE
            else _settled(self._rows.take(near), query, near, k=k)
            for query, most, near in zip(asked, values, numbers.sort(dim=1).values.numpy(), strict=True)
        ]

    def _of_many(self, query: Float32[numpy.ndarray, " dim"], least: float, *, k: int) -> Found:
        """Return the k nearest of all rows of a cosine or more: one more look at all, for such as empty images."""
        hits = [some[rows @ query >= least] for some, rows in self._rows.blocks()]
        near = numpy.concatenate(hits)
        most = max(TILE, 4 * k)
        while len(near) > most:  # few at a time, for they are settled in float64
            parts = numpy.array_split(near, -(-len(near) // most))
            left = [_settled(self._rows.take(part), query, part, k=k).rows for part in parts]
            near = numpy.sort(numpy.concatenate(left))
        return _settled(self._rows.take(near), query, near, k=k)


@final
class Faiss:
    """Follows a graph of the rows."""

    def __init__(self, path: Path, rows: Rows, reach: int) -> None:
        """Read the graph.

        Raises:
            UserError: if it is damaged.
        """
        self._faiss = library("faiss", extra=EXTRA)
        try:
            self._graph = self._faiss.read_index(str(path))
        except RuntimeError as error:
            raise UserError(f"{path} is damaged ({line_of(error)}); `dinokit search add` writes it again") from error
        self._rows, self._reach, self._exact = rows, reach, Exact(rows)
        if self._graph.ntotal != len(rows.alive):
            raise UserError(f"{path} is of other rows; `dinokit search add` writes it again")

    def nearest(self, asked: Float32[numpy.ndarray, "query dim"], *, k: int) -> list[Found]:
        """Return about the k nearest rows of each query, and exactly those of a query whose like was removed.

        The graph is asked for the nearest of all rows, for that is what its reach was measured by: a search that passes
        over removed rows on its way ends among them, with less than there is. As many more are asked for as were
        removed, then more still; where that is no longer worth it, all rows are looked at.
        """
        found = dict[int, Found]()
        removed = len(self._rows.alive) / max(len(self._rows), 1)
        wide, most = math.ceil((k + MORE) * removed), max(MOST, WIDER * (k + MORE))
        while len(found) < len(asked) and wide <= most:
            todo = [place for place in range(len(asked)) if place not in found]
            for place, near in zip(todo, self._near(asked[todo], min(wide, len(self._rows.alive))), strict=True):
                if len(near) >= k:
                    found[place] = self._found(asked[place], near, k=k)
            wide *= WIDER
        rest = [place for place in range(len(asked)) if place not in found]
        if rest:
            found |= dict(zip(rest, self._exact.nearest(asked[rest], k=k), strict=True))
        return [found[place] for place in range(len(asked))]

    def _near(self, asked: Float32[numpy.ndarray, "query dim"], wide: int) -> list[Int64[numpy.ndarray, " near"]]:
        """Return those that are searched of the nearest rows of each query, by their numbers."""
        way = self._faiss.SearchParametersHNSW(efSearch=max(self._reach, 2 * wide))
        self._faiss.omp_set_num_threads(torch.get_num_threads())
        _, numbers = self._graph.search(numpy.ascontiguousarray(asked), wide, params=way)
        there = [numpy.sort(near[near >= 0]) for near in numbers]
        return [near[self._rows.alive[near]] for near in there]

    def _found(self, query: Float32[numpy.ndarray, " dim"], numbers: Int64[numpy.ndarray, " near"], *, k: int) -> Found:
        # from the graph, where they are float16: to read them from the pools takes three times as long as the search
        return _settled(self._graph.reconstruct_batch(numbers), query, numbers, k=k)


def opened(engine: Engine, rows: Rows, folder: Path) -> Exact | Faiss:
    """Return what finds the rows of an index."""
    return Exact(rows) if engine.file is None else Faiss(folder / engine.file, rows, engine.reach)


def built(folder: Path, pools: Sequence[Pool], by: By, *, kind: Kind) -> Engine:
    """Write what is needed to find rows of some pools, also those that are removed now, and say what it is.

    Args:
        kind: auto: exact up to a size, and above it where there is no faiss, which is said.
    """
    rows = Rows(pools, by, numpy.ones(sum(map(len, pools)), dtype=bool))
    if kind == "exact" or len(rows) < 2 or (kind == "auto" and len(rows) * rows.dim <= EXACT):
        return Engine()  # also of one image, of which there is nothing to measure
    try:
        faiss = library("faiss", extra=EXTRA)
    except UserError as error:
        if kind == "faiss":
            raise
        warn(f"every search looks at all {len(rows):,} images, for {error}; then `dinokit search add` makes a graph")
        return Engine()
    name = f"{PREFIX}{digest([by, *(pool.digest for pool in pools)])}{SUFFIX}"
    path = folder / name
    if not path.is_file():
        with slow(f"{len(rows):,} images are brought into a graph, about {len(rows) / 1e3 / 60:.0f} minutes of a core"):
            graph = _graph(faiss, rows)
        with write_atomic(path) as temporary:
            faiss.write_index(graph, str(temporary))
    return _reaching(name, path, rows)


def _graph(faiss: Any, rows: Rows) -> Any:
    """Bring all rows into a graph; they lie in it as float16."""
    faiss.omp_set_num_threads(torch.get_num_threads())
    graph = faiss.IndexHNSWSQ(rows.dim, faiss.ScalarQuantizer.QT_fp16, LINKS, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = CARE
    for _, some in rows.blocks():
        if not graph.is_trained:
            graph.train(some)  # of float16 nothing is learnt
        graph.add(some)
    return graph


def _reaching(name: str, path: Path, rows: Rows) -> Engine:
    """Find out how far the graph must be followed."""
    asked, k = strangers(rows, evenly(ASKED, len(rows))), min(WANTED, len(rows))
    truth = [set(found.rows.tolist()) for found in Exact(rows).nearest(asked, k=k)]
    found = Engine()
    for reach in REACH:
        graph = Faiss(path, rows, reach)
        hits = [len(each & set(near.rows.tolist())) for each, near in zip(truth, graph.nearest(asked, k=k))]
        found = Engine(name, reach, sum(hits) / (k * len(hits)))
        if found.recall >= RECALL:
            break
    else:
        warn(f"of the {WANTED} nearest images a search finds {100 * found.recall:.1f} %; --kind exact finds all")
    info(f"{len(rows):,} images in a graph; of the {WANTED} nearest a search finds {100 * found.recall:.1f} %")
    return found


def strangers(rows: Rows, numbers: Int64[numpy.ndarray, " some"]) -> Float32[numpy.ndarray, "some dim"]:
    """Make of some rows what is like them and not among them: a row, moved as two of its nearest lie to each other."""
    own, draw = rows.take(numbers), generator(0)
    found = numpy.empty_like(own)
    for place, near in enumerate(Exact(rows).nearest(own, k=min(WANTED + 1, len(rows)))):
        others = near.rows[near.rows != numbers[place]]
        two = draw.permutation(len(others))[:2]  # of two rows there is but one
        one, other = (rows.take(others[each])[0] for each in (two[:1], two[-1:]))
        found[place] = own[place] + one - other
    found /= numpy.linalg.norm(found, axis=1, keepdims=True).clip(min=1e-6)
    return found


def _settled(
    rows: Float32[numpy.ndarray, "near dim"],
    query: Float32[numpy.ndarray, " dim"],
    numbers: Int64[numpy.ndarray, " near"],
    *,
    k: int,
) -> Found:
    """Put rows, ascending by their numbers, into the order of their cosines, and keep k."""
    products = rows.astype(numpy.float64)
    products *= query  # not rows @ query, which rounds equal rows differently, by where they stand in the matrix
    cosines, places = best(torch.from_numpy(products.sum(axis=1))[None], min(k, len(numbers)))
    return Found(numbers[places[0].numpy()], cosines[0].float().numpy())
