"""How fast is logistic regression for 45 values of C, and how equal? Ours beside scikit-learn.

    python benchmarks/logreg.py [--rows 10000] [--dim 384] [--classes 100] [--noise 1] [--cores 1] [--rounds 1]
        [--every 4]

Features: classes are directions with a decaying spectrum, within them noise of a flatter one; at noise 1 a boundary
parts them after all, at 2.5 a third of unseen images is right. scikit-learn fits each C by itself with the settings of
the papers (L-BFGS, at most 1,000 iterations, tolerance 1e-12, float64), every n-th C if so told, its time scaled; ours
goes through all. Sides by turns, each a process of its own on the same cores; medians of wall and of processor time.
Then, of each C that both have: how much larger our objective is than theirs, relative to it, and the largest difference
of a probability, both in float64 by the same code.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

CS = [10 ** (-6 + place / 4) for place in range(45)]
SIDES = ("ours", "theirs")


def main() -> None:
    """Run both sides by turns and print what they took and how equal they are."""
    options = _options()
    if options.side:
        np.savez(options.out, **_side(options))
        return
    cores = sorted(os.sched_getaffinity(0))[: options.cores]
    runs: dict[str, list[dict[str, np.ndarray]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.rounds):
            for side in SIDES:
                out = Path(folder) / f"{side}.npz"
                words = [f"--{name}={getattr(options, name)}" for name in ("rows", "dim", "classes", "noise", "every")]
                subprocess.run(
                    [sys.executable, __file__, *words, f"--side={side}", f"--out={out}"],
                    env={**os.environ, "OMP_NUM_THREADS": str(len(cores)), "OPENBLAS_NUM_THREADS": str(len(cores))},
                    preexec_fn=lambda: os.sched_setaffinity(0, cores),
                    check=True,
                )
                runs[side].append(dict(np.load(out)))
                last = runs[side][-1]
                print(f"{side}: {last['wall'].sum():.1f} s, processor {last['cpu'].sum():.1f} s", flush=True)
    compare(runs, options)


def compare(runs: dict[str, list[dict[str, np.ndarray]]], options: argparse.Namespace) -> None:
    """Print a line per C that both have, and the shares of time."""
    features, labels = made(options)
    tried = CS[:: options.every]
    print("| C | objective | ours above theirs | largest difference of a probability | iterations |")
    print("|---|---|---|---|---|")
    worst = [0.0, 0.0]
    for place, c in enumerate(tried):
        (mine, own), (other, rival) = (
            evaluated(features, labels, runs[side][-1]["weight"][at], runs[side][-1]["bias"][at], c)
            for side, at in (("ours", place * options.every), ("theirs", place))
        )
        above, apart = mine / other - 1, float(np.abs(own - rival).max())
        steps = int(runs["theirs"][-1]["steps"][place])
        worst = [max(worst[0], above), max(worst[1], apart)]
        print(f"| {c:.2e} | {mine:.8g} | {above:.1e} | {apart:.1e} | {steps} |")
    print(f"largest: objective above theirs {worst[0]:.1e}, probability {worst[1]:.1e}")
    for clock in ("wall", "cpu"):
        ours = statistics.median(float(run[clock].sum()) for run in runs["ours"])
        theirs = statistics.median(float(run[clock].sum()) for run in runs["theirs"]) * len(CS) / len(tried)
        print(f"{clock}: ours {ours:.1f} s, theirs {theirs:.1f} s, {ours / theirs:.3f} of it")


def made(options: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Return features and their classes."""
    draw = np.random.default_rng(0)
    spectrum = np.arange(1, options.dim + 1) ** -0.5
    turn = np.linalg.qr(draw.normal(size=(options.dim, options.dim)))[0]
    middles = draw.normal(size=(options.classes, options.dim)) * spectrum
    labels = np.concatenate([np.arange(options.classes), draw.integers(0, options.classes, options.rows)])
    labels = labels[: options.rows]
    noise = 1.5 * options.noise * draw.normal(size=(options.rows, options.dim)) * spectrum**0.7
    return ((middles[labels] + noise) @ turn * 2 + 0.5).astype(np.float32), labels


def evaluated(
    features: np.ndarray, labels: np.ndarray, weight: np.ndarray, bias: np.ndarray, c: float
) -> tuple[float, np.ndarray]:
    """Return the objective of a solution, and the probabilities."""
    scores = features.astype(np.float64) @ weight.T + bias
    scores -= scores.max(axis=1, keepdims=True)
    logs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    return float(-logs[np.arange(len(labels)), labels].sum() + (weight**2).sum() / (2 * c)), np.exp(logs)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--noise", type=float, default=1.0)
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--every", type=int, default=4)
    parser.add_argument("--side", default="", help=argparse.SUPPRESS)
    parser.add_argument("--out", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


def _side(options: argparse.Namespace) -> dict[str, np.ndarray]:
    features, labels = made(options)
    found = _ours(features, labels) if options.side == "ours" else _theirs(features, labels, CS[:: options.every])
    weight, bias, wall, cpu, steps = zip(*found)
    return {
        "weight": np.stack(weight),
        "bias": np.stack(bias),
        "wall": np.array(wall),
        "cpu": np.array(cpu),
        "steps": np.array(steps),
    }


def _ours(features: np.ndarray, labels: np.ndarray) -> list[tuple]:
    import torch

    from dinokit.dense.logistic import solutions

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    rows, began = [], (time.perf_counter(), time.process_time())
    for solution in solutions(torch.from_numpy(features), torch.from_numpy(labels), CS):
        now = time.perf_counter(), time.process_time()
        rows.append((solution.weight.numpy(), solution.bias.numpy(), now[0] - began[0], now[1] - began[1], 0))
        began = now
    return rows


def _theirs(features: np.ndarray, labels: np.ndarray, cs: list[float]) -> list[tuple]:
    from sklearn.linear_model import LogisticRegression

    warnings.simplefilter("ignore")  # that 1,000 iterations are not the end
    samples, rows = features.astype(np.float64), []
    for c in cs:
        began = time.perf_counter(), time.process_time()
        fit = LogisticRegression(C=c, tol=1e-12, max_iter=1000).fit(samples, labels)
        took = time.perf_counter() - began[0], time.process_time() - began[1]
        rows.append((fit.coef_, fit.intercept_, *took, int(fit.n_iter_.max())))
    return rows


if __name__ == "__main__":
    main()
