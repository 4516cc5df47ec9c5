"""Pools of embeddings without images."""

from pathlib import Path
from typing import Any

import numpy as np

from dinokit.curation.pool import Pool
from dinokit.curation.stored import begin, finish, write_part

STAMP: dict[str, Any] = {
    "weights": "w",
    "feature": "cls",
    "precision": "fp32",
    "pixels": {"mean": (0.5,), "white": None},
    "split": None,
    "part": 100,
}


def unit(rows: Any) -> np.ndarray:
    """Rows of length 1 in float16."""
    found = np.asarray(rows, dtype=np.float64)
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float16)


def make_pool(
    folder: Path, vectors: np.ndarray, *, widths: list[int] | None = None, parts: int = 2, data: str = "", **stamp: Any
) -> Pool:
    """Write a pool of some vectors; image i is named i.png and 10 high."""
    folder.mkdir()
    begin(folder, {**STAMP, "data": data or f"/{folder.name}", "dim": vectors.shape[1], **stamp})
    for number, rows in enumerate(np.array_split(np.arange(len(vectors)), parts)):
        lines = {
            "row": rows.tolist(),
            "key": [f"{row}.png" for row in rows],
            "source": [data or f"/{folder.name}"] * len(rows),
            "split": [None] * len(rows),
            "width": [10 if widths is None else widths[row] for row in rows],
            "height": [10] * len(rows),
            "bytes_digest": [f"{row:032x}" for row in rows],
            "flags": [[]] * len(rows),
            "class": [None] * len(rows),
            "domain": [None] * len(rows),
        }
        write_part(folder, number, vectors[rows], lines, fingerprint="f")
    finish(folder)
    return Pool(folder)


def files(out: Path) -> dict[str, bytes]:
    """What a step wrote, by name."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
