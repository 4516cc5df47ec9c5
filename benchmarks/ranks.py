"""What do ranks cost and save? Memory of a rank by FSDP2, and images per second of two ranks beside one process.

python benchmarks/ranks.py [--dim 768 --depth 12 --rounds 5 --steps 6]

Memory: a ViT of the given width, with the teacher and AdamW, after one step. "holds" counts bytes of own weights,
teacher, gradients and moments; "peak" is the highest resident memory of a rank's process, 0.5 GiB of it torch itself.
Throughput: a ViT-Ti/16 at 96 px, DINO + iBOT + KoLeo, 16 images per step, N processes of T / N threads each; rounds of
all kinds alternate, because neighbours on the machine come and go, and the median over rounds counts.
"""

import argparse
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as group
import torch.multiprocessing as processes
from torch import Tensor

from dinokit import recipes
from dinokit.core import dist
from dinokit.core.numbers import constant
from dinokit.training.config import Experiment, ObjectiveConfigs
from dinokit.training.step import Trainer
from dinokit.views.multicrop import Views

CPU = torch.device("cpu")
MIB = 2**20


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"dim": 768, "depth": 12, "rounds": 5, "steps": 6, "prototypes": 4096}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--kind", nargs=3, metavar=("RANKS", "SHARDING", "THREADS"), help="print this kind's images/s")
    args = parser.parse_args()
    tiny = experiment(args.prototypes, dim=192, depth=12, heads=3)
    if args.kind:
        ranks, sharding, each = args.kind
        print(*together(int(ranks), measure_speed, tiny, sharding == "fsdp", args.steps, int(each)))
        return
    threads = os.cpu_count() or 1
    print(f"torch {torch.__version__} · {threads} cores\n")
    memory = experiment(args.prototypes, dim=args.dim, depth=args.depth, heads=args.dim // 64)
    print("ranks | sharding | holds MiB | of one | peak MiB")
    whole = 0.0
    # or glibc keeps what is freed in pieces too small for the next block: 2.4 GiB a rank where 1.7 are used
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
    for ranks, sharded in [(1, False), (2, False), (2, True), (4, True)]:
        held, peak = together(ranks, measure_memory, memory, sharded)
        whole = whole or held
        print(f"{ranks} | {'fsdp' if sharded else 'none'} | {held:.0f} | {held / whole:.3f} | {peak:.0f}", flush=True)
    del os.environ["MALLOC_MMAP_THRESHOLD_"]
    kinds = [(1, False), (threads, False), (threads, True)]
    speed: dict[tuple[int, bool], list[float]] = {kind: [] for kind in kinds}
    for _ in range(args.rounds):
        for ranks, sharded in kinds:
            speed[ranks, sharded] += together(ranks, measure_speed, tiny, sharded, args.steps, threads // ranks)
    print("\nranks x threads | sharding | images/s | of one process")
    for (ranks, sharded), found in speed.items():
        rate, one = statistics.median(found), statistics.median(speed[1, False])
        print(f"{ranks} x {threads // ranks} | {'fsdp' if sharded else 'none'} | {rate:.1f} | {rate / one:.2f}")


def experiment(prototypes: int, **sizes: int) -> Experiment:
    """Return DINOv3's recipe for a ViT of these sizes, in float32."""
    base = recipes.find("dinov3_vits16").experiment
    ffn = {"dim": sizes["dim"], "ffn_hidden": 4 * sizes["dim"]}
    objectives: Mapping[str, Any] = {
        name: replace(each, head=replace(each.head, prototypes=prototypes)) if hasattr(each, "head") else each
        for name, each in base.objectives.items()
    }
    return replace(
        base,
        backbone=replace(base.backbone, **(sizes | ffn)),
        objectives=ObjectiveConfigs(dict(objectives)),
        optim=replace(base.optim, lr=constant(1e-4), weight_decay=constant(0.04)),
        precision="fp32",
    )


def together(ranks: int, measure: Any, *args: Any) -> list[float]:
    """Run a measurement on so many ranks and return what rank 0 found."""
    with tempfile.TemporaryDirectory() as folder:
        processes.spawn(_rank, args=(ranks, Path(folder), measure, args), nprocs=ranks)
        found: list[float] = torch.load(Path(folder) / "found.pt")
        return found


def _rank(rank: int, ranks: int, folder: Path, measure: Any, args: tuple[Any, ...]) -> None:
    os.environ["RANK"] = str(rank)
    if ranks > 1:
        store = group.FileStore(str(folder / "store"), ranks)
        dist.join(backend="gloo", store=store, rank=rank, world_size=ranks)
    found = measure(*args)
    if rank == 0:
        torch.save(found, folder / "found.pt")
    dist.leave()


def measure_memory(experiment: Experiment, sharded: bool) -> list[float]:
    """Return the MiB that this rank holds after a step, and the peak of its process."""
    torch.set_num_threads(1)
    trainer = _trainer(experiment, sharded=sharded)
    trainer.step([_views(2, local=0)], step=0)
    learned = [parameter for part in trainer.parts.values() for parameter in part.parameters()]
    tensors: list[Tensor] = [*trainer.state().values(), *(p.grad for p in learned if p.grad is not None)]
    held = sum(dist.own_rows(tensor).nbytes for tensor in tensors)
    return [held / MIB, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MIB]


def measure_speed(experiment: Experiment, sharded: bool, steps: int, threads: int) -> list[float]:
    """Return images per second of all ranks: the median step."""
    torch.set_num_threads(threads)
    trainer = _trainer(experiment, sharded=sharded)
    views = _views(16 // dist.world_size(), local=4)
    seconds = []
    for step in range(steps + 1):
        began = time.perf_counter()
        trainer.step([views], step=step)
        seconds.append(time.perf_counter() - began)
    return [16 / statistics.median(seconds[1:])]  # the first one allocates


def _trainer(experiment: Experiment, *, sharded: bool) -> Trainer:
    return Trainer(experiment, CPU, sharded=sharded)


def _views(images: int, *, local: int) -> Views:
    masks = torch.rand(2, images, 36) < 0.3
    return Views(torch.randn(2, images, 3, 96, 96), torch.randn(local, images, 3, 48, 48), masks)


if __name__ == "__main__":
    main()
