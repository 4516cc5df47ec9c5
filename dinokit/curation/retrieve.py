"""Retrieval: the images of a pool that resemble those of a chosen set, its queries, by one of two rules.

    sample    of every query the N nearest images; 4, or 32 where the set shall be a core of the training data
    cluster   of every cluster in which more than 3 queries lie so many random images; for sets of few images

No similarity is too small. An image that several queries find counts once, for the first of them. Source: DINOv2
(arXiv:2304.07193), appendix A.4, by which ImageNet's images make three quarters of LVD-142M.

OUT/selection.parquet holds the images, each with its query, rank and similarity, or its cluster, and how many queries
hit it; OUT/retrieve.json, written last, the numbers.
"""

import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int64, Integer, Shaped

from dinokit.core.messages import UserError, info, is_main
from dinokit.core.numbers import at_least
from dinokit.core.seed import generator
from dinokit.curation.assign import Centres, assign
from dinokit.curation.cluster import DONE as CLUSTERED
from dinokit.curation.cluster import NAME as CLUSTER
from dinokit.curation.cluster import identity
from dinokit.curation.neighbours import Edges, places_of
from dinokit.curation.pairs import compute, find, read
from dinokit.curation.pool import Pool
from dinokit.curation.step import SELECTION, Step, numbers_of
from dinokit.curation.table import read_places
from dinokit.curation.vectors import Vectors
from dinokit.sources.selection import write_selection

NAME, STATE = "retrieve", ".pairs"
DONE = f"{NAME}.json"


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is retrieved."""

    by: Literal["sample", "cluster"] = "sample"  # the nearest of each query, or images of the clusters queries lie in
    neighbours: int = at_least(1, 4)  # by sample: images of a query
    unique: bool = True  # by sample: take an image once, for the first query that finds it
    hits: int = at_least(0, 3)  # by cluster: a cluster gives images if more queries than these lie in it
    per_cluster: int = at_least(1, 10_000)  # by cluster: images of one
    cap: int = at_least(1, 1_000_000)  # by cluster: images in all
    exact: int = at_least(1, 100_000)  # by sample: as many queries and images are all compared; more are within cells
    seed: int = at_least(0, 0)  # of all that is drawn by lot


@dataclass(frozen=True)
class Retrieved:
    """Rows, and columns that say where each comes from."""

    rows: Int64[np.ndarray, " row"]
    columns: dict[str, Shaped[np.ndarray, " row"]]


def run(
    pool: Pool,
    config: Config,
    out: Path,
    *,
    queries: Pool,
    clusters: Path | None = None,
    rows: Int64[np.ndarray, " row"] | None = None,
    device: torch.device,
) -> dict[str, Any]:
    """Retrieve images for a set of queries; call as the owner of `out`, on all ranks together.

    Args:
        queries: embedded by the same model.
        clusters: what `cluster` wrote for these rows; needed by cluster.
        rows: of the pool, that may be retrieved; None: all.

    Raises:
        UserError: if a vector is not finite or zero, the queries are vectors of another model, clusters are missing
            or those of other rows, or `out` holds the result of something else.
    """
    vectors = pool.vectors if rows is None else pool.vectors.subset(rows)
    pool_is = identity(pool, rows)
    known = _known(clusters, pool, pool_is) if config.by == "cluster" else None
    stamp = {"settings": asdict(config), "pool": pool_is, "queries": queries.digest, "clusters": known}
    step = Step(out, NAME, stamp, (SELECTION,))
    if (done := step.done()) is not None:
        return done
    pool.check_same_model(queries)
    queries.check()
    pool.check()
    step.begin()
    parts = _pairs(queries.vectors, vectors, config, out, device) if config.by == "sample" else []
    numbers = dict[str, Any]()
    if is_main():
        if clusters is None or config.by == "sample":
            found, nominal = by_sample(read(parts), unique=config.unique)
        else:
            assigned = _assigned(clusters, len(vectors))
            found, nominal = by_cluster(_own(queries.vectors, clusters), assigned, config)
        numbers = _write(pool, queries, found, rows, config.by, out) | {"nominal": nominal}
        numbers |= {"embeddings": pool.place, "seeds": queries.place}
        shutil.rmtree(out / STATE, ignore_errors=True)
    return step.end(numbers)


def _pairs(queries: Vectors, vectors: Vectors, config: Config, out: Path, device: torch.device) -> list[Path]:
    """Find the nearest rows of every query; all ranks must call together."""
    common: Any = {"exact": config.exact, "seed": config.seed, "state": out / STATE, "device": device}
    search = find(queries, np.arange(len(queries)), vectors, k=config.neighbours, above=None, **common)
    return compute(search, out / "pairs")


def by_sample(parts: Iterable[Edges], *, unique: bool) -> tuple[Retrieved, int]:
    """Return the rows that queries found, in the order of the queries, and how many there are with repetitions.

    Args:
        parts: pairs of a query and a row, of each query the nearest first.
    """
    edges = Edges.concatenate(list(parts))
    edges = edges.some(np.argsort(edges.rows, kind="stable"))
    ranks, found = places_of(edges.rows) + 1, edges.others
    _, first, which, counts = np.unique(found, return_index=True, return_inverse=True, return_counts=True)
    chosen = np.sort(first) if unique else np.arange(len(edges))
    columns = {"query": edges.rows[chosen], "rank": ranks[chosen].astype(np.int32)}
    columns |= {"similarity": edges.similarity[chosen], "hits": counts[which.reshape(-1)][chosen].astype(np.int32)}
    return Retrieved(found[chosen], columns), len(edges)


def by_cluster(
    own: Integer[np.ndarray, " query"], assigned: Integer[np.ndarray, " row"], config: Config
) -> tuple[Retrieved, int]:
    """Return rows of the clusters that queries lie in, in ascending order, and how many there were before the cap.

    Args:
        own: the cluster of each query.
        assigned: that of each row.
    """
    hits = np.bincount(own, minlength=int(assigned.max()) + 1)
    rows = np.flatnonzero((hits > config.hits)[assigned])
    lot = generator(config.seed, 0).random(len(rows))
    rows = rows[np.lexsort((lot, assigned[rows]))]
    rows = rows[places_of(assigned[rows].astype(np.int64)) < config.per_cluster]
    nominal = len(rows)
    rows = np.sort(generator(config.seed, 1).permutation(rows)[: config.cap])
    cluster = assigned[rows]
    return Retrieved(rows, {"cluster": cluster, "hits": hits[cluster].astype(np.int32)}), nominal


def _known(clusters: Path | None, pool: Pool, pool_is: dict[str, str | None]) -> dict[str, Any]:
    """Return what `cluster` says of its clusters, which must be those of the rows at hand."""
    if clusters is None:
        raise UserError("by cluster needs the clusters of the pool; run dinokit curate cluster and give its folder")
    if not (clusters / CLUSTERED).is_file():
        raise UserError(f"{clusters} holds no finished clusters (no {CLUSTERED}); run dinokit curate cluster first")
    known = numbers_of(clusters, CLUSTER, "pool")
    told = {name: known["pool"].get(name) for name in pool_is}
    if told["digest"] != pool_is["digest"]:
        raise UserError(f"{clusters} holds the clusters of other embeddings than {pool.folder}; cluster these")
    if told["chosen"] != pool_is["chosen"]:
        raise UserError(f"{clusters} holds the clusters of other images of {pool.folder}; give both steps one --after")
    return known


def _assigned(clusters: Path, rows: int) -> Int64[np.ndarray, " row"]:
    count = numbers_of(clusters, CLUSTER, "clusters")["clusters"][0]
    return read_places(clusters / "level1.parquet", "cluster", below=count, count=rows)


def _own(queries: Vectors, clusters: Path) -> Int64[np.ndarray, " query"]:
    """Return the cluster that each query belongs to."""
    kept = Vectors([clusters / "level1.npy"])
    centres = Centres(torch.from_numpy(kept.read(0, len(kept))).float())
    return np.concatenate([assign(rows, centres).numpy() for _, rows in queries.blocks()])


def _write(
    pool: Pool, queries: Pool, found: Retrieved, rows: Int64[np.ndarray, " row"] | None, by: str, out: Path
) -> dict[str, Any]:
    """Write the selection and return the numbers."""
    places = found.rows if rows is None else rows[found.rows]

    def known(part: slice) -> dict[str, Any]:
        columns: dict[str, Any] = {"place": places[part]} | {name: each[part] for name, each in found.columns.items()}
        if by == "sample":
            columns["query"] = queries.table(["key"], rows=columns["query"])["key"].combine_chunks()
        return columns

    lines = pool.selection(places, component="retrieved", reason=f"by {by}", columns=known)
    write_selection(out / SELECTION, lines, fingerprints=pool.fingerprints)
    distinct = len(np.unique(places))
    info(f"{len(places):,} images retrieved by {by} for {len(queries):,} queries, {distinct:,} of them different")
    return {"queries": len(queries), "retrieved": len(places), "different": distinct}
