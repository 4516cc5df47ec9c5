"""What does the Gram term cost? Time and memory of loss and gradient, by matrices of patches and of dims.

    python benchmarks/gram.py [--patches 256 1024 4096] [--dim 384] [--images 4] [--rounds 5]

Beside them the definition as one would write it, with autograd. Each cell runs in a process of its own; memory is its
peak beyond the inputs.
"""

import argparse
import multiprocessing
import resource
import statistics
import time

import torch
from torch.nn import functional

from dinokit.objectives.gram import gram

SIDES = ("definition", "patches", "dims")


def main() -> None:
    """Print a row per number of patches and side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patches", nargs="+", type=int, default=[256, 1024, 4096])
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    fresh = multiprocessing.get_context("spawn")
    print(f"{arguments.images} images, {arguments.dim} dims, {torch.get_num_threads()} threads")
    print("patches | side | ms | peak MB beyond the inputs | loss")
    for patches in arguments.patches:
        for side in SIDES:
            with fresh.Pool(1) as pool:
                found = pool.apply(_measured, (side, arguments.images, patches, arguments.dim, arguments.rounds))
            print(f"{patches} | {side} | {found[0]:.1f} | {found[1]:.0f} | {found[2]:.6f}", flush=True)


def _measured(side: str, images: int, patches: int, dim: int, rounds: int) -> tuple[float, float, float]:
    generator = torch.Generator().manual_seed(0)
    student, anchor = (torch.randn(images, patches, dim, generator=generator) for _ in range(2))
    student.requires_grad_()
    _loss(side, student[:1, :8].detach().requires_grad_(), anchor[:1, :8]).backward()  # libraries are loaded
    before = _peak()
    seconds = []
    for _ in range(rounds):
        student.grad = None
        began = time.perf_counter()
        loss = _loss(side, student, anchor)
        loss.backward()
        seconds.append(time.perf_counter() - began)
    return 1e3 * statistics.median(seconds), _peak() - before, float(loss.detach())


def _loss(side: str, student: torch.Tensor, anchor: torch.Tensor) -> torch.Tensor:
    if side != "definition":
        return gram(student, anchor, form=side)  # type: ignore[arg-type]
    ours, theirs = (functional.normalize(each, dim=-1) for each in (student, anchor))
    return functional.mse_loss(ours @ ours.transpose(1, 2), theirs @ theirs.transpose(1, 2))


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
