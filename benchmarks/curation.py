"""Does curation help? One recipe trained on sets of one size that were chosen of one pile in several ways.

    python benchmarks/curation.py DATA OUT [--steps 600] [--size 1500] [--seeds 0 1 2]

`pile.py` makes the pile. The model `first` learns from all of it and embeds it; from there the product's own steps:
`curate dedup` (threshold auto), `cluster` and `sample`, `retrieve` for the seed set, `auto` for both. Then the same
recipe, steps and number of images from scratch on each set, with the seed of the run for the choice, too:

    raw             by lot from the pile
    deduplicated    by lot from what stays
    clustered       sampled from clusters of what stays
    retrieved       the nearest to the seeds, of what stays
    mixed           half retrieved, half clustered, and the seeds as a tenth of the batches
    told            what curation aims at, with the truth that it never sees: no copies, of each domain and kind as many

All are measured on classes that are in no set, by k-NN and by retrieval, leave-one-out, at the last step. A start goes
on where another was stopped. OUT/results.json holds every number, OUT/table.md the table, OUT/figure.svg the picture.
"""

import argparse
import json
import shutil
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dots
import numpy as np
import pile
import torch
from jaxtyping import Int64

import dinokit
from dinokit.commands.curating import nearest_first
from dinokit.core.seed import generator
from dinokit.curation import dedup, sample
from dinokit.curation.pool import Pool
from dinokit.curation.table import read_table
from dinokit.sources.selection import write_selection

ARMS = ("raw", "deduplicated", "clustered", "retrieved", "mixed", "told")
MEASURES = {  # title: evaluation, data, settings, number
    "clothes, k-NN": ("knn", "clothes", {"k": [20]}, "top1@20"),
    "clothes, mAP": ("retrieval", "clothes", {}, "mAP"),
    "clipart, k-NN": ("knn", "clipart", {"k": [10]}, "top1@10"),
    "clipart, mAP": ("retrieval", "clipart", {}, "mAP"),
    "emoji across styles, mAP": ("retrieval", "emoji.csv", {}, "mAP"),
}
NEIGHBOURS = 64  # that each seed retrieves
DOMAINS = ("clipart", "clothes", "emoji")


def main() -> None:
    """Do what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--size", type=int, default=1500, help="images of each set")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    torch.set_num_threads(1)
    heaped, out = args.out / "pile", args.out
    pile.heap(args.data, heaped)
    train(str(heaped / "pool"), out / "first", steps=args.steps, seed=0)
    found: dict[str, Any] = {"steps": args.steps, "size": args.size, "runs": {}, "sets": {}, "baselines": {}}
    curated(heaped, out)
    for seed in args.seeds:
        for arm in ARMS:
            chosen = choose(arm, heaped, out, size=args.size, seed=seed)
            run = out / "runs" / f"{arm}-{seed}"
            train(str(chosen), run, steps=args.steps, seed=seed)
            rows = measured(run, heaped, baselines=not found["baselines"])
            found["runs"][f"{arm}-{seed}"] = rows.pop("model")
            found["baselines"] = found["baselines"] or rows
            found["sets"][f"{arm}-{seed}"] = composition(chosen, heaped)
            (out / "results.json").write_text(json.dumps(found, indent=1))
            (out / "table.md").write_text(table(found, args.seeds))
    runs = found["runs"]
    kinds = {title: {arm: [runs[f"{arm}-{seed}"][title] for seed in args.seeds] for arm in ARMS} for title in MEASURES}
    dashes = {title: {name: row[title] for name, row in found["baselines"].items()} for title in MEASURES}
    (out / "figure.svg").write_text(dots.picture(kinds, dashes, title="Classes in no set, by the set trained on"))
    print((out / "table.md").read_text())


def train(data: str, run: Path, *, steps: int, seed: int) -> None:
    """Train the demo recipe in colour, alone on one core."""
    settings = {"backbone.channels": 3, "data.labels": False, "checkpoint_every": 1_000_000, "health.every": 0}
    quiet = {"processes": 1, "workers": 0, "eval.tasks": None, "tensorboard": False, "precision": "fp32"}
    dinokit.pretrain("demo", data=data, out=run, settings=settings | quiet, seed=seed, steps=steps)


def curated(heaped: Path, out: Path) -> None:
    """Embed, find duplicates, cluster, and retrieve: what all seeds share."""
    for name in ("pool", "seeds"):
        dinokit.embed(model=str(out / "first"), data=str(heaped / name), out=out / "embedded" / name)
    pool = str(out / "embedded" / "pool")
    dinokit.curate("dedup", pool, out=out / "duplicates")
    dinokit.curate("cluster", pool, out=out / "clusters", after=out / "duplicates")
    near = {"after": out / "duplicates", "queries": str(out / "embedded" / "seeds")}
    dinokit.curate("retrieve", pool, out=out / "near", **near, neighbours=NEIGHBOURS, unique=False)


def choose(arm: str, heaped: Path, out: Path, *, size: int, seed: int) -> Path:
    """Choose the images of a set, and return the selection."""
    path = out / "sets" / f"{arm}-{seed}.parquet"
    if path.exists():
        return path
    path.parent.mkdir(exist_ok=True)
    if arm == "clustered":
        dinokit.curate("sample", str(out / "clusters"), out=path, size=size, seed=seed)
        return path
    if arm == "mixed":
        return _mixed(heaped, out, size=size, seed=seed)
    pool, draw = Pool(out / "embedded" / "pool"), generator(seed, ARMS.index(arm))
    if arm == "retrieved":
        near = read_table(out / "near" / "selection.parquet")
        rows = nearest_first(near["place"], near["rank"], size, draw=draw)
    elif arm == "told":
        rows = _told(pool, heaped, size, seed)
    else:
        some = np.arange(len(pool)) if arm == "raw" else dedup.kept(out / "duplicates", pool)
        rows = draw.permutation(some)[:size]
    assert len(rows) == size, f"{arm}: {len(rows):,} images"
    lines = pool.selection(np.sort(rows), component=arm, reason=arm)
    write_selection(path, lines, fingerprints=pool.fingerprints)
    return path


def _mixed(heaped: Path, out: Path, *, size: int, seed: int) -> Path:
    """Let `auto` do all of it, on embeddings that are there; the seeds count among the images."""
    made, seeds = out / "auto" / str(seed), heaped / "seeds"
    for name, of in (("embeddings", "pool"), ("seeds-1", "seeds")):
        shutil.copytree(out / "embedded" / of, made / name, dirs_exist_ok=True)
    size -= len(list(seeds.iterdir()))
    near = {"seeds": [str(seeds)], "neighbours": NEIGHBOURS}
    dinokit.curate("auto", str(heaped / "pool"), out=made, model=str(out / "first"), size=size, seed=seed, **near)
    return made / "selection.parquet"


def _told(pool: Pool, heaped: Path, size: int, seed: int) -> Int64[np.ndarray, " row"]:
    """Let the product's sampler divide the images among domains, and within each among kinds; no origin twice."""
    truth, kinds, seen = pile.truth(heaped), dict[str, list[int]](), set[str]()
    for row, key in enumerate(pool.keys):
        line = truth[key]
        if not line["altered"] and line["origin"] not in seen:
            seen.add(line["origin"])
            kinds.setdefault(line["kind"], []).append(row)
    rows = np.concatenate([np.array(each) for each in kinds.values()])
    kind = np.repeat(np.arange(len(kinds)), [len(each) for each in kinds.values()])
    domain = np.array([DOMAINS.index(name.split("/")[0]) for name in kinds])
    return rows[sample.sample([kind, domain], np.zeros(len(rows)), size, seed=seed)]


def composition(chosen: Path, heaped: Path) -> dict[str, float]:
    """Return what a set is made of, in percent of its images: domains, and pictures that no other image shows."""
    truth = pile.truth(heaped)
    lines = [truth[key] for key in read_table(chosen)["key"].tolist() if key in truth]
    counts = Counter(line["kind"].split("/")[0] for line in lines)
    different = len({line["origin"] for line in lines}) / len(lines)
    return {"different": 100 * different} | {name: 100 * counts[name] / len(lines) for name in DOMAINS}


def measured(run: Path, heaped: Path, *, baselines: bool) -> dict[str, dict[str, float]]:
    """Measure a run on what is held out, beside its baselines if they are wanted."""
    found: dict[str, dict[str, float]] = {}
    for title, (task, data, settings, number) in MEASURES.items():
        path = run / f"{task}-{data}.json"
        if not path.exists():
            where = str(heaped / "held-out" / data)
            dinokit.evaluate(task, model=str(run), data=where, out=path, baselines=baselines, settings=settings)
        for name, row in json.loads(path.read_text())["results"].items():
            found.setdefault(name if name in ("random-init", "raw-pixels") else "model", {})[title] = row[number]
    return found


def table(found: Mapping[str, Any], seeds: Sequence[int]) -> str:
    """Return a row per set, mean and each seed, and the baselines."""
    shares = {"different": "different pictures", **{name: name for name in DOMAINS}}
    rows = ["| set | " + " | ".join([*MEASURES, *(f"{name}, %" for name in shares.values())]) + " |"]
    rows.append("|" + "---|" * (len(MEASURES) + len(shares) + 1))
    by_arm = {arm: [f"{arm}-{seed}" for seed in seeds if f"{arm}-{seed}" in found["runs"]] for arm in ARMS}
    for arm, runs in ((arm, runs) for arm, runs in by_arm.items() if runs):
        values = {title: [found["runs"][run][title] for run in runs] for title in MEASURES}
        cells = [f"{statistics.mean(each):.1f} ({', '.join(f'{v:.1f}' for v in each)})" for each in values.values()]
        cells += [f"{statistics.mean(found['sets'][run][name] for run in runs):.0f}" for name in shares]
        rows.append(f"| {arm} | " + " | ".join(cells) + " |")
    for name, row in found["baselines"].items():
        rows.append(f"| {name} | " + " | ".join(f"{row[title]:.1f}" for title in MEASURES) + " |" + " |" * len(shares))
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    main()
