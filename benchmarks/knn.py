"""How fast is exact k-nearest-neighbour classification? Ours beside scikit-learn's brute force, on the same cores.

    python benchmarks/knn.py [--gallery 100000] [--queries 2000] [--dim 384] [--k 20] [--threads 1] [--rounds 3]

The rows lie around the centres of 1,000 classes. Both sides take float32 and run in turn, and so does our product of
matrices alone; best of the rounds. Processor time is the steadier one on a shared machine. The peak is what a search
adds to the memory of the process, each side in a process of its own; `--gallery` of several sizes shows how it grows.
"""

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from dinokit.evaluation import knn
from dinokit.evaluation.sets.labelled import Task

CLASSES = 1000
CPU = torch.device("cpu")


def main() -> None:
    """Print a row per side and size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("queries", 2_000), ("dim", 384), ("k", 20), ("threads", 1), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--gallery", type=int, nargs="+", default=[100_000])
    given = parser.parse_args()
    print(f"{given.queries:,} queries x {given.dim}, k {given.k}, {given.threads} threads")
    print("gallery | side | seconds | of the processor | share of scikit-learn | peak, MiB | the same neighbours")
    for gallery in given.gallery:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found = pool.apply(compare, (gallery, given))
        for side, (wall, processor, same) in found.items():
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                memory = pool.apply(peak, (side, gallery, given))
            share = processor / found["scikit-learn"][1]
            print(
                f"{gallery:,} | {side} | {wall:.2f} | {processor:.2f} | {share:.2f} | {memory:.0f} | {same}", flush=True
            )


def compare(gallery: int, given: argparse.Namespace) -> dict[str, tuple[float, float, str]]:
    """Run all sides in turn, and compare what they find."""
    task, took, found = drawn(gallery, given), dict[str, list[np.ndarray]](), dict[str, Any]()
    with threadpool_limits(given.threads):
        torch.set_num_threads(given.threads)
        for _ in range(given.rounds):
            for name, side in SIDES.items():
                start = np.array([time.perf_counter(), time.process_time()])
                found[name] = side(task, given.k)
                took.setdefault(name, []).append(np.array([time.perf_counter(), time.process_time()]) - start)
    same = dict.fromkeys(found, "") | {"ours": f"{(found['ours'] == found['scikit-learn']).mean():.6f}"}
    return {name: (*np.min(each, axis=0).tolist(), same[name]) for name, each in took.items()}


def peak(side: str, gallery: int, given: argparse.Namespace) -> float:
    """Return by how many MiB the memory of a fresh process grows."""
    task = drawn(gallery, given)
    torch.set_num_threads(given.threads)
    SIDES[side](
        Task(task.gallery[:64], task.gallery_labels[:64], None, task.queries[:64], task.query_labels[:64], None, False),
        5,
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with threadpool_limits(given.threads):
        SIDES[side](task, given.k)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10


def drawn(gallery: int, given: argparse.Namespace) -> Task:
    """Draw features around the centres of classes."""
    draw = torch.Generator().manual_seed(0)
    centres = torch.randn(CLASSES, given.dim, generator=draw)
    labels = torch.randint(CLASSES, (gallery + given.queries,), generator=draw)
    rows = torch.randn(len(labels), given.dim, generator=draw)
    for start in range(0, len(rows), 1 << 14):
        part = slice(start, start + (1 << 14))
        rows[part] += centres[labels[part]]
    return Task(rows[:gallery], labels[:gallery], None, rows[gallery:], labels[gallery:], None, leave_one_out=False)


def ours(task: Task, k: int) -> np.ndarray:
    """Return the neighbours of each query."""
    found = knn.nearest(task, k, None, step=len(task.queries), device=CPU)
    return np.concatenate([places.numpy() for _, _, places in found])


def peer(task: Task, k: int) -> np.ndarray:
    """Return the neighbours of each query by scikit-learn."""
    from sklearn.neighbors import NearestNeighbors

    model = NearestNeighbors(n_neighbors=k, algorithm="brute", metric="cosine").fit(task.gallery.numpy())
    places: np.ndarray = model.kneighbors(task.queries.numpy(), return_distance=False)
    return places


def product(task: Task, _: int) -> None:
    """Only multiply, as often as it takes."""
    for start in range(0, len(task.queries), 2048):
        for first in range(0, len(task.gallery), 4096):
            task.queries[start : start + 2048] @ task.gallery[first : first + 4096].T


SIDES: dict[str, Callable[[Task, int], Any]] = {"scikit-learn": peer, "ours": ours, "the product alone": product}


if __name__ == "__main__":
    main()
