"""What does a whole grid of linear heads cost on kept features? The 52 heads of DINOv2 beside one head.

    python benchmarks/linear.py [--images 10000] [--dim 384] [--classes 10] [--batch 1024] [--steps 50] [--cores 1]
        [--rounds 3]

Sides by turns, each a process of its own on the same cores:

    grid    52 heads: 13 rates x CLS of one block or of four x without or with the mean patch, trained together
    narrow  one head on the CLS of one block, by the same code
    wide    one head on the CLS of four blocks and the mean patch, by the same code
    torch   the wide head as published code trains one: a DataLoader over the rows, nn.Linear, autograd, optim.SGD

Medians of wall and of processor time per step, after five steps that do not count; of ours how many operations of the
two products a step has (4 x batch x numbers of the weights), at which rate they would account for all of the time, and
that of a square product of 1,024 on the same cores. Rows are random: what is in them changes no time.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import islice

import numpy as np

RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1)
SIDES = ("grid", "narrow", "wide", "torch")
WARM = 5


def main() -> None:
    """Run the sides by turns and print what a step of each took."""
    options = _options()
    if options.side:
        print(*measured(options))
        return
    cores = sorted(os.sched_getaffinity(0))[: options.cores]
    found: dict[str, list[list[float]]] = {side: [] for side in SIDES}
    for _ in range(options.rounds):
        for side in SIDES:
            names = ("images", "dim", "classes", "batch", "steps")
            words = [f"--{name}={getattr(options, name)}" for name in names]
            out = subprocess.run(
                [sys.executable, __file__, *words, f"--side={side}"],
                env={**os.environ, "OMP_NUM_THREADS": str(len(cores))},
                preexec_fn=lambda: os.sched_setaffinity(0, cores),
                check=True,
                capture_output=True,
                text=True,
            )
            found[side].append([float(word) for word in out.stdout.split()])
    wall, cpu, operations, square = (
        {side: statistics.median(run[place] for run in runs) for side, runs in found.items()} for place in range(4)
    )
    print(f"{options.images:,} x {options.dim}, {options.classes} classes, batch {options.batch}, {len(cores)} cores")
    print(
        "| side | wall, ms a step | processor, ms | of the grid | GFLOP of products | GFLOP/s | of a square product |"
    )
    print("|---|---|---|---|---|---|---|")
    for side in SIDES:
        rate = operations[side] / cpu[side] / 1e9
        print(
            f"| {side} | {1e3 * wall[side]:.2f} | {1e3 * cpu[side]:.2f} | 1 / {cpu['grid'] / cpu[side]:.1f} | "
            f"{operations[side] / 1e9:.2f} | {rate:.0f} | {rate / square[side] * 1e9:.2f} |"
        )
    apart = 13 * (cpu["narrow"] + cpu["wide"])
    print(f"the grid takes {cpu['grid'] / cpu['wide']:.1f} x the wide head, {cpu['grid'] / cpu['torch']:.1f} x torch's")
    print(f"13 narrow and 13 wide heads one by one: {1e3 * apart:.0f} ms, {apart / cpu['grid']:.1f} x the grid of 52")


def measured(options: argparse.Namespace) -> tuple[float, float, float, float]:
    """Return seconds of wall and processor per step, operations of its products, and the rate of a square one."""
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    draw = np.random.default_rng(0)
    rows = draw.standard_normal((options.images, 5 * options.dim), dtype=np.float32)
    labels = torch.from_numpy(draw.integers(0, options.classes, options.images))
    step, operations = (_torch if options.side == "torch" else _ours)(options, rows, labels)
    for _ in range(WARM):
        step()
    began = time.perf_counter(), time.process_time()
    for _ in range(options.steps):
        step()
    took = [(now - then) / options.steps for now, then in zip((time.perf_counter(), time.process_time()), began)]
    one, other = torch.randn(2, 1024, 1024)
    one @ other
    began = time.process_time()
    for _ in range(10):
        one @ other
    return took[0], took[1], operations, 10 * 2 * 1024**3 / (time.process_time() - began)


def _ours(options: argparse.Namespace, rows: np.ndarray, labels) -> tuple[Callable[[], None], float]:
    import torch

    from dinokit.dense.batches import kept
    from dinokit.dense.grid import Grid, Layout, Member, Training
    from dinokit.models.classifier import Reading

    readings = [Reading(blocks=blocks, mean_patch=mean) for blocks in (1, 4) for mean in (False, True)]
    members = [Member(reading=reading, lr=lr, weight_decay=0.0) for reading in readings for lr in RATES]
    members = {"grid": members, "narrow": members[:1], "wide": members[-1:]}[options.side]
    layout = Layout(4, options.dim, options.dim)
    if options.side == "narrow":
        layout, rows = Layout(1, options.dim, 0), np.ascontiguousarray(rows[:, : options.dim])
    training = Training(iterations=options.steps + WARM, optimizer="sgd", loss="ce", seed=0)
    grid = Grid(members, layout, classes=options.classes, training=training, device=torch.device("cpu"))
    batches = kept(rows, labels, batch=options.batch, seed=0, device=torch.device("cpu"))(0)
    numbers = iter(range(options.steps + WARM))

    def step() -> None:
        seen, targets = next(batches)
        grid.step(seen, targets, step=next(numbers))

    return step, 4 * options.batch * sum(heads.weight.numel() for heads in grid.groups)


def _torch(options: argparse.Namespace, rows: np.ndarray, labels) -> tuple[Callable[[], None], float]:
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    head = torch.nn.Linear(rows.shape[1], options.classes)
    descent = torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9)
    slower = torch.optim.lr_scheduler.CosineAnnealingLR(descent, options.steps + WARM)
    judge = torch.nn.CrossEntropyLoss()
    data = TensorDataset(torch.from_numpy(rows), labels)

    def endless():
        while True:
            yield from DataLoader(data, batch_size=options.batch, shuffle=True, drop_last=True)

    batches = islice(endless(), options.steps + WARM)

    def step() -> None:
        seen, targets = next(batches)
        descent.zero_grad()
        judge(head(seen), targets).backward()
        descent.step()
        slower.step()

    return step, 4 * options.batch * head.weight.numel()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
