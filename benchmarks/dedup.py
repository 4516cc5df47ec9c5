"""How fast are near-duplicates found, and how many of them? Ours, exact and within cells, beside faiss.

    python benchmarks/dedup.py [--rows 50000] [--dim 384] [--k 32] [--above 0.9] [--threads 2] [--asked 20000] [--ivf]

The rows lie around centres of very different sizes in a decaying spectrum; a twentieth of them are planted copies of
others, at cosines between the threshold and 1. All sides run in turn on the same cores:

    cells   what dedup does with more than 100,000 rows: fit, measure the probes, assign, search, write and read
    exact   the same search among all rows, of `--asked` rows
    flat    faiss's IndexFlatIP, of `--asked` rows
    ivf     faiss's IndexIVFFlat with our number of cells and probes, of all rows

A time of `--asked` rows is scaled to all; that of the processor is the steadier one on a shared machine. Recall is the
share of the pairs that `exact` found above the threshold for these rows, either row of which found the other; peak is
that of the process when the cells are done.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch

from dinokit.core.files import read_json
from dinokit.curation.neighbours import Edges, Ordered, Search
from dinokit.curation.pairs import compute, find, read
from dinokit.curation.vectors import Vectors

CPU = torch.device("cpu")
PLANTED = 0.05
PIECE = 1 << 14


def main() -> None:
    """Print a row per side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("rows", 50_000), ("dim", 384), ("k", 32), ("threads", 2), ("asked", 20_000), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--above", type=float, default=0.9)
    parser.add_argument("--ivf", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    faiss.omp_set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as folder:
        plant(Path(folder) / "rows.npy", given.rows, given.dim, above=given.above, seed=given.seed)
        measure(Vectors([Path(folder) / "rows.npy"]), given, Path(folder))


def plant(path: Path, rows: int, dim: int, *, above: float, seed: int) -> None:
    """Write rows of length 1, some of which are near others."""
    draw = np.random.default_rng(seed)
    spectrum = (1 + np.arange(dim, dtype=np.float32)) ** -0.5
    centres = draw.standard_normal((max(rows // 500, 1), dim), dtype=np.float32) * spectrum
    sizes = draw.pareto(1.5, len(centres)) + 0.2
    found = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(rows, dim))
    for start in range(0, rows, PIECE):
        own = draw.choice(len(centres), min(PIECE, rows - start), p=sizes / sizes.sum())
        found[start : start + PIECE] = unit(centres[own] + 0.7 * spectrum * normal(draw, len(own), dim))
    order = draw.permutation(rows)
    copies = int(PLANTED * rows)
    for start in range(0, copies, PIECE):
        part = slice(start, min(start + PIECE, copies))
        sources, places = order[copies : 2 * copies][part], order[part]
        cosine = draw.uniform(above, 1, (len(places), 1)).astype(np.float32)
        noise = unit(normal(draw, len(places), dim))
        found[places] = unit(cosine * found[sources] + np.sqrt(1 - cosine**2) * noise)
    found.flush()


def measure(vectors: Vectors, given: argparse.Namespace, folder: Path) -> None:
    """Run the sides and print what they took and found."""
    rows, asked = np.arange(len(vectors)), min(given.asked, len(vectors))
    chosen = np.sort(np.random.default_rng(given.seed).choice(len(vectors), asked, replace=False))
    print(f"{len(vectors):,} x {vectors.dim}, k {given.k}, pairs above {given.above}, {given.threads} threads")
    print("side | seconds of all | of the processor | pairs of the asked | recall")

    def within_cells() -> Edges:
        search = find(vectors, rows, k=given.k, above=given.above, exact=1, seed=0, state=folder / "state", device=CPU)
        return Edges.concatenate(list(read(compute(search, folder / "edges"))))

    def among_all() -> Edges:
        one = Search(Ordered.single(vectors, chosen), Ordered.single(vectors), k=given.k + 1, above=given.above)
        found = Edges.concatenate([one.block(number) for number in range(len(one))])
        return found.some(found.rows != found.others)

    took, found = timed(within_cells)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    about = read_json(folder / "state" / "probes.json")
    exactly, exact = timed(among_all)
    truth = pairs_of(exact, len(vectors))

    def show(side: str, seconds: np.ndarray, queries: int, edges: Edges) -> None:
        true = np.isin(truth, pairs_of(edges, len(vectors)))
        wall, processor = seconds * len(vectors) / queries
        print(
            f"{side} | {wall:.1f} | {processor:.1f} | {true.sum():,} of {len(true):,} | {true.mean():.4f}", flush=True
        )

    print(f"{about['cells']} cells, {about['probes']} probes, {len(found):,} edges, peak {memory:.2f} GiB")
    show("cells", took, len(vectors), found)
    show("exact", exactly, asked, exact)
    sides: dict[str, tuple[Any, Any]] = {"faiss flat": (faiss.IndexFlatIP(vectors.dim), chosen)}
    if given.ivf:
        quantiser = faiss.IndexFlatIP(vectors.dim)
        ivf = faiss.IndexIVFFlat(quantiser, vectors.dim, about["cells"], faiss.METRIC_INNER_PRODUCT)
        ivf.nprobe = about["probes"]
        sides["faiss ivf"] = (ivf, rows)
    for name, (side, queries) in sides.items():
        took, found = timed(lambda side=side, queries=queries: searched(side, vectors, queries, given))
        show(name, took, len(queries), found)


def searched(index: Any, vectors: Vectors, queries: np.ndarray, given: argparse.Namespace) -> Edges:
    """Search with an index of faiss."""
    if not index.is_trained:
        index.train(
            vectors.take(np.random.default_rng(0).permutation(len(vectors))[: 64 * index.nlist]).astype(np.float32)
        )
    for _, block in vectors.blocks():
        index.add(unit(block.astype(np.float32)))
    found = []
    for start in range(0, len(queries), PIECE):
        part = queries[start : start + PIECE]
        scores, others = index.search(unit(vectors.take(part).astype(np.float32)), given.k + 1)
        own = np.repeat(part, given.k + 1)
        edges = Edges(own, others.reshape(-1), scores.reshape(-1))
        found.append(edges.some((edges.similarity > given.above) & (own != edges.others) & (edges.others >= 0)))
    return Edges.concatenate(found)


def pairs_of(edges: Edges, rows: int) -> np.ndarray:
    """Return each pair once, as a number."""
    return np.unique(np.minimum(edges.rows, edges.others) * rows + np.maximum(edges.rows, edges.others))


def timed(work: Callable[[], Edges]) -> tuple[np.ndarray, Edges]:
    """Return the seconds that something takes, on the wall and of the processor, and what it gives."""
    start = np.array([time.perf_counter(), time.process_time()])
    found = work()
    return np.array([time.perf_counter(), time.process_time()]) - start, found


def normal(draw: np.random.Generator, rows: int, dim: int) -> np.ndarray:
    """Draw numbers."""
    return draw.standard_normal((rows, dim), dtype=np.float32)


def unit(rows: np.ndarray) -> np.ndarray:
    """Return rows of length 1."""
    found: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return found


if __name__ == "__main__":
    main()
