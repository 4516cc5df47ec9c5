"""How good are the features of a small recipe? Mean over seeds beside the untrained network and the raw pixels.

    python benchmarks/demo.py [--recipe demo] [--data demo:fashion demo:emoji] [--seeds 0 1 2] [--chain exact fused]
                              [--out runs/bench] [--json]

One run takes about five minutes on two cores; a run that is already in --out is continued or reused.
"""

import argparse
import itertools
import json
import statistics
from pathlib import Path

import dinokit
from dinokit.core.files import read_jsonl


def main() -> None:
    """Train what is missing and print one row per data set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--data", nargs="+", default=["demo:fashion", "demo:fashion-placed", "demo:emoji"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--chain", nargs="+", default=["exact"], help="of the distortions of light: exact, fused")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    parser.add_argument("--json", action="store_true", help="print the last run alone, a line for a program")
    arguments = parser.parse_args()
    rows = []
    for data, chain in itertools.product(arguments.data, arguments.chain):
        results = [_result(arguments.recipe, data, chain, seed, arguments.out) for seed in arguments.seeds]
        rows.append((f"{data} {chain}", results))
    if arguments.json:
        print(json.dumps(rows[-1][1][-1]))
        return
    print("data, chain | teacher mean (each seed) | random-init | raw-pixels | training seconds")
    for data, results in rows:
        teacher = [result["teacher"] for result in results]
        each = ", ".join(f"{value:.2f}" for value in teacher)
        others = " | ".join(
            f"{statistics.mean(r[name] for r in results):.2f}" for name in ("random-init", "raw-pixels")
        )
        seconds = statistics.median(result["seconds"] for result in results)
        print(f"{data} | {statistics.mean(teacher):.2f} ({each}) | {others} | {seconds:.0f}")


def _result(recipe: str, data: str, chain: str, seed: int, out: Path) -> dict[str, float]:
    run = out / f"{'' if recipe == 'demo' else Path(recipe).stem + '-'}{data.removeprefix('demo:')}-{chain}-{seed}"
    chains = {f"data.views.{crop}.chain": chain for crop in ("first", "second", "local")}
    # measured at the start and the end only: the test images are not there to choose a step by
    settings = {"seed": seed, "checkpoint_every": 1_000_000, "tensorboard": False, **chains}
    dinokit.pretrain(recipe, data=data, out=run, settings=settings)
    lines = read_jsonl(run / "metrics.jsonl")
    measured = {line["model"]: line.get("top1@20", line.get("mAP")) for line in lines if "evaluation" in line}
    return measured | {"seconds": max(line["time"] for line in lines if "time" in line)}


if __name__ == "__main__":
    main()
