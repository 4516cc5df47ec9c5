"""The steps of a curation of a few made-up vectors, in the folders that `curate` would write."""

from pathlib import Path

import numpy as np
import torch

from dinokit.curation import cluster, dedup, retrieve, sample
from dinokit.curation.pool import Pool
from tests.curation.pools import make_pool, unit

CPU = torch.device("cpu")
ROWS = 40
COPIES = (30, 31, 32, 33)  # the last four of them are equal to the first four


def vectors() -> np.ndarray:
    """Rows far from each other, but for some equal ones."""
    found = np.random.default_rng(0).normal(size=(ROWS, 16))
    found[list(COPIES)] = found[:4]
    return unit(found)


def all_steps(out: Path, *, data: str = "", held: str = "", seeds: str = "") -> Pool:
    """Embed, drop four copies and what resembles a reference, cluster, choose 12, and retrieve 2 of each of 3 seeds."""
    out.mkdir()
    pool = make_pool(out / "embeddings", vectors(), data=data)
    against = make_pool(out / "against", vectors()[[7]], parts=1, data=held)
    queries = make_pool(out / "seeds-1", unit(np.eye(16)[:3]), parts=1, data=seeds)
    dedup.run(pool, dedup.Config(threshold=0.99), out / "duplicates", against=against, device=CPU)
    stay = dedup.kept(out / "duplicates", pool)
    cluster.run(pool, cluster.Config(levels=(8, 2), resample=0), out / "clusters", rows=stay, device=CPU)
    sample.run(out / "clusters", sample.Config(size=12), out / "balanced.parquet")
    near = retrieve.Config(neighbours=2)
    retrieve.run(pool, near, out / "retrieved-1", queries=queries, rows=stay, device=CPU)
    return pool
