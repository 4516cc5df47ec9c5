"""How long does a cut of TokenCut take? Lanczos' method beside the eigenvectors of LAPACK, on the same joints.

    python benchmarks/discovery.py [--sizes 768 1200 2500 4096] [--taus 0.1 0.2 0.4] [--noise 1] [--largest 2500]

Patches are smooth random maps with noise, 384 wide. scipy computes what the published code asks it for, the second and
third eigenvector of the generalised problem; torch all eigenvectors of the symmetric one. One thread, processor time,
the median of the taus (above `largest` patches of ours alone); then the largest difference of an eigenvector of length
1, up to its sign.
"""

import argparse
import statistics
import time

import numpy
import scipy.linalg
import torch
from torch.nn import functional as F

from dinokit.dense.discovery import APART, second


def joints(count: int, tau: float, noise: float) -> torch.Tensor:
    """Return which of some patches are alike."""
    rows = int(count**0.5)
    draw = torch.Generator().manual_seed(0)
    maps = F.interpolate(torch.randn(1, 384, 5, 5, generator=draw), size=(rows, -(-count // rows)), mode="bicubic")[0]
    patches = maps.flatten(1).T[:count] + noise * torch.randn(count, 384, generator=draw)
    unit = F.normalize(patches.double(), dim=1)
    near = unit @ unit.T > tau
    return near & near.T


def by_scipy(near: torch.Tensor) -> numpy.ndarray:
    """Return the second eigenvector as the published code does."""
    edges = numpy.where(near.numpy(), 1.0, APART)
    sums = numpy.diag(edges.sum(axis=1))
    return scipy.linalg.eigh(sums - edges, sums, subset_by_index=[1, 2])[1][:, 0]


def by_torch(near: torch.Tensor) -> numpy.ndarray:
    """Return it of all eigenvectors."""
    edges = torch.where(near, 1.0, APART).double()
    root = edges.sum(dim=1).sqrt()
    return (torch.linalg.eigh(edges / root / root[:, None]).eigenvectors[:, -2] / root).numpy()


def main() -> None:
    """Print a line per size."""
    options = argparse.ArgumentParser()
    options.add_argument("--sizes", type=int, nargs="+", default=[768, 1200, 2500, 4096])
    options.add_argument("--taus", type=float, nargs="+", default=[0.1, 0.2, 0.4])
    options.add_argument("--noise", type=float, default=1.0)
    options.add_argument("--largest", type=int, default=2500)
    given = options.parse_args()
    torch.set_num_threads(1)
    print("| patches | ours | scipy, two of the generalised problem | torch, all | largest difference |")
    print("|---|---|---|---|---|")
    for count in given.sizes:
        sides = {"ours": lambda near: second(near).numpy()}
        sides |= {"scipy": by_scipy, "torch": by_torch} if count <= given.largest else {}
        took, apart = {name: list[float]() for name in sides}, 0.0
        for tau in given.taus:
            near, found = joints(count, tau, given.noise), {}
            for name, side in sides.items():
                start = time.process_time()
                vector = side(near)
                took[name].append(time.process_time() - start)
                vector = vector / numpy.linalg.norm(vector)
                found[name] = vector * numpy.sign(vector[numpy.abs(vector).argmax()])
            apart = max(apart, *(float(numpy.abs(found["ours"] - each).max()) for each in found.values()), 0.0)
        times = [
            f"{statistics.median(took[name]):.3f} s" if name in took else "-" for name in ("ours", "scipy", "torch")
        ]
        print(f"| {count:,} | {' | '.join(times)} | {apart:.1e} |", flush=True)


if __name__ == "__main__":
    main()
