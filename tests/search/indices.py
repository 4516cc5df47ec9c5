"""Indices of vectors without images."""

from pathlib import Path
from typing import Any

import numpy as np

from dinokit.search import change
from dinokit.search.descriptors import By
from dinokit.search.index import Index
from dinokit.search.nearest import Kind
from tests.curation.pools import make_pool, unit


def noise(rows: int, dim: int = 8, seed: int = 0) -> np.ndarray:
    """Rows in any direction, of length 1 in float16."""
    return unit(np.random.default_rng(seed).standard_normal((rows, dim)))


def made(
    folder: Path, vectors: np.ndarray, *, by: By = "cls", feature: str = "cls", kind: Kind = "exact", **stamp: Any
) -> Index:
    """Make an index of a pool of some vectors; image i is named i.png."""
    folder.mkdir()
    make_pool(folder / "pool-0", vectors, model="m", feature=feature, **{"data": "/first", **stamp})
    return change.begin(folder, "pool-0", by=by, kind=kind)


def names(index: Index, vectors: np.ndarray, k: int) -> list[list[str]]:
    """The names of the nearest of each vector."""
    found = index.nearest(vectors.astype(np.float64), k=k)
    return [[each.name for each in index.entries(one.rows)] for one in found]
