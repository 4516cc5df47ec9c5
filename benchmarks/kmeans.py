"""How fast is a level of k-means, how good, and in how much memory? Ours beside faiss and scikit-learn, same start.

    python benchmarks/kmeans.py [--rows 100000] [--dim 384] [--centres 2000] [--moves 10] [--rounds 3] [--sides ours]

The vectors are float16 of unit length in a .npy file: a long-tailed mixture of directions with a decaying spectrum.
Every side is a process of its own that reads the file (faiss and scikit-learn as float32 in memory), starts from the
same random rows and makes the same number of moves; then all rows are assigned once more and the inertia is computed in
float64 by the same code. Sides by turns, round by round; medians of wall time, and the largest resident memory.
The side `cluster` is a whole level as `dinokit curate cluster --memory` makes it: its own start, moves, table.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from dinokit.curation.vectors import Vectors


def main() -> None:
    """Run every side in turn and print a table."""
    options = _options()
    if options.side == "write":  # in a process of its own: those that are started inherit the peak of their parent
        write_vectors(Path(options.file), options.rows, options.dim)
        return
    if options.side:
        print(json.dumps(_side(options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        options.file = options.file or str(Path(folder) / "vectors.npy")
        if not Path(options.file).exists():
            words = [f"--{name}={getattr(options, name)}" for name in ("file", "rows", "dim")]
            subprocess.run([sys.executable, __file__, *words, "--side=write"], check=True)
        found: dict[str, list[dict[str, float]]] = {side: [] for side in options.sides}
        for _ in range(options.rounds):
            for side in options.sides:
                words = [f"--{name}={getattr(options, name)}" for name in ("file", "centres", "moves", "memory")]
                run = subprocess.run(
                    [sys.executable, __file__, *words, f"--side={side}"], stdout=subprocess.PIPE, check=True
                )
                found[side].append(json.loads(run.stdout.splitlines()[-1]))
                print(side, found[side][-1], flush=True)
    print(f"\n{options.rows:,} x {options.dim} float16, {options.centres:,} centres, {options.moves} moves")
    print("| side | seconds | of faiss | inertia | peak GiB |\n|---|---|---|---|---|")
    medians = {side: statistics.median(run["seconds"] for run in runs) for side, runs in found.items()}
    for side, runs in found.items():
        share, peak = medians[side] / medians.get("faiss", float("nan")), max(run["peak"] for run in runs)
        print(f"| {side} | {medians[side]:.1f} | {share:.2f} | {runs[0]['inertia']:.6g} | {peak:.2f} |")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--centres", type=int, default=2_000)
    parser.add_argument("--moves", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sides", nargs="+", default=["ours", "faiss", "minibatch"])
    parser.add_argument("--memory", default="2GiB", help="of the side cluster")
    parser.add_argument("--file", default="", help="vectors to use, or where to write them")
    parser.add_argument("--side", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


def write_vectors(path: Path, rows: int, dim: int) -> None:
    """Write vectors of unit length, piece by piece."""
    draw = np.random.default_rng(0)
    spectrum = np.arange(1, dim + 1) ** -0.5
    modes = draw.normal(size=(5_000, dim)) * spectrum
    share = np.arange(1, 5_001) ** -0.7
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(rows, dim))
    for first in range(0, rows, 50_000):
        count = min(50_000, rows - first)
        mode = draw.choice(5_000, size=count, p=share / share.sum())
        block = modes[mode] + 0.7 * draw.normal(size=(count, dim)) * spectrum
        out[first : first + count] = block / np.linalg.norm(block, axis=1, keepdims=True)
    out.flush()


def _side(options: argparse.Namespace) -> dict[str, float]:
    vectors = Vectors([Path(options.file)])  # of a mapping all pages that rows from all over it touch would count
    rows = len(vectors)
    first = np.sort(np.random.default_rng(1).choice(rows, options.centres, replace=False))
    start = vectors.take(first).astype(np.float32)
    began = time.perf_counter()
    centres, assigned = {"ours": _ours, "cluster": _cluster, "faiss": _faiss, "minibatch": _minibatch}[options.side](
        options, start
    )
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    inertia = 0.0
    for at in range(0, rows, 20_000):
        block = np.load(options.file, mmap_mode="r")[at : at + 20_000].astype(np.float64)
        inertia += float(((block - centres[assigned[at : at + 20_000]]) ** 2).sum())
    return {"seconds": seconds, "inertia": inertia, "peak": peak}


def _ours(options: argparse.Namespace, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    import torch

    from dinokit.curation.kmeans import lloyd, look

    vectors, centres = Vectors([Path(options.file)]), torch.from_numpy(start)
    for _, moved in lloyd(vectors, centres, iterations=options.moves):
        centres = moved
    return centres.numpy(), look(vectors, centres, sums=False).centre


def _cluster(options: argparse.Namespace, _: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    import torch

    from dinokit.curation.cluster import Config, cluster
    from dinokit.curation.memory import block_within, in_bytes

    config = Config(levels=(options.centres,), resample=0, iterations=options.moves)
    vectors, size = Vectors([Path(options.file)]), {"centres": options.centres, "kept": options.centres}
    vectors.block = block_within(in_bytes(options.memory), rows=len(vectors), dim=vectors.dim, **size)
    with tempfile.TemporaryDirectory() as folder:
        (found,) = cluster(vectors, config, Path(folder), device=torch.device("cpu"))
        return np.load(Path(folder) / "level1.npy").astype(np.float64), found


def _faiss(options: argparse.Namespace, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    import faiss

    rows = np.load(options.file).astype(np.float32)
    most = len(rows)  # points per centroid: no sub-sampling
    search = faiss.Kmeans(rows.shape[1], options.centres, niter=options.moves, max_points_per_centroid=most, seed=0)
    search.train(rows, init_centroids=start)
    return search.centroids, search.index.search(rows, 1)[1][:, 0]


def _minibatch(options: argparse.Namespace, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.cluster import MiniBatchKMeans

    rows = np.load(options.file).astype(np.float32)
    search = MiniBatchKMeans(
        options.centres, init=start, n_init=1, batch_size=max(4096, 3 * options.centres), random_state=0
    )
    return search.fit(rows).cluster_centers_, search.labels_


if __name__ == "__main__":
    main()
