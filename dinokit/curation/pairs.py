"""Pairs of similar rows, found exactly or through cells, and kept on disk: a kill costs the part at hand.

Each rank computes every W-th part; a part is a Parquet of row, other, similarity, whole or absent.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64

from dinokit.core import dist
from dinokit.core.files import read_json, write_json
from dinokit.core.messages import info, is_main, progress
from dinokit.curation import cells
from dinokit.curation.neighbours import Edges, Ordered, Search
from dinokit.curation.table import read_table, write_array, write_table
from dinokit.curation.vectors import Vectors

PARTS = 1024  # of a search, at most


def find(
    vectors: Vectors,
    rows: Int64[np.ndarray, " row"],
    gallery: Vectors | None = None,
    *,
    k: int,
    above: float | None,
    exact: int,
    seed: int,
    state: Path,
    device: torch.device,
) -> Search:
    """Prepare the search for the neighbours of some rows; all ranks must call together.

    Args:
        gallery: where they are looked for; None: among these rows.
        exact: so many rows are compared with as many; more only where cells would cost more still.
        state: a folder for the cells; what lies there is used again.
    """
    queries = Ordered.single(vectors, rows)
    others = queries if gallery is None else Ordered.single(gallery)
    wanted, looked = len(queries.rows), len(others.rows)
    count = cells.count_of(looked)
    if wanted * looked <= max(exact * exact, (wanted + looked) * count):
        return Search(queries, None if gallery is None else others, k=k, above=above, device=device)
    centres = _centres(others, count, seed, state, device)
    path, same = state / "probes.json", gallery is None
    if is_main() and not path.exists():
        probes, pairs = cells.needed(queries, others, centres, k=k, above=above, same=same, seed=seed, device=device)
        write_json(path, {"cells": count, "probes": probes, "pairs of the sample": pairs})
    dist.barrier()
    probes = int(read_json(path)["probes"])
    info(f"{looked:,} rows in {count:,} cells · each looks into {probes} and those of its neighbours")
    near = Search(queries, Ordered.single(centres), k=probes, exactly=False, device=device)
    # among themselves rows may also be found by the other one of a pair
    often = cells.OFTEN if gallery is None else 0.0
    ordered, visits = cells.arrange(vectors, read(compute(near, state / "queries")), count=count, often=often)
    if gallery is not None:
        near = Search(others, Ordered.single(centres), k=1, exactly=False, device=device)
        others, _ = cells.arrange(gallery, read(compute(near, state / "gallery")), count=count)
    return Search(ordered, None if gallery is None else others, k=k, above=above, visits=visits, device=device)


def compute(search: Search, folder: Path) -> list[Path]:
    """Compute all parts that are not there yet and return them in their order; all ranks must call together."""
    step = max(-(-len(search) // PARTS), 1)
    firsts = range(0, len(search), step)
    paths = [folder / f"{number:04d}.parquet" for number in range(len(firsts))]
    mine = range(dist.rank(), len(firsts), dist.world_size())
    for number in progress(mine, len(mine)):
        if not paths[number].exists():
            blocks = range(firsts[number], min(firsts[number] + step, len(search)))
            edges = Edges.concatenate([search.block(block) for block in blocks])
            columns = {"row": edges.rows, "other": edges.others, "similarity": edges.similarity}
            write_table(paths[number], columns)
    dist.barrier()
    return paths


def read(paths: Iterable[Path]) -> Iterator[Edges]:
    """Yield the pairs part by part."""
    for path in paths:
        columns = read_table(path)
        yield Edges(columns["row"], columns["other"], columns["similarity"])


def _centres(others: Ordered, count: int, seed: int, state: Path, device: torch.device) -> Vectors:
    path = state / "centres.npy"
    if not path.exists():
        fitted = cells.fit(others.vectors, others.rows, count=count, seed=seed, device=device)
        if is_main():
            write_array(path, fitted)
        dist.barrier()
    return Vectors([path])
