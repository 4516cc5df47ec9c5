"""Searches that are kept on disk: their parts, and what they find through cells."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dinokit.core.files import read_json
from dinokit.curation import neighbours, pairs
from dinokit.curation.neighbours import Edges
from dinokit.curation.pairs import compute, find, read
from dinokit.curation.vectors import Vectors
from tests.curation.test_dedup import crowd
from tests.curation.test_neighbours import everything

SAME: dict[str, Any] = {"seed": 0, "device": torch.device("cpu")}


@pytest.mark.parametrize("above", [None, 0.8])
def test_queries_find_through_cells_what_they_find_among_all_rows(tmp_path: Path, above: float | None) -> None:
    rows = crowd(700)
    queries, gallery = Vectors([rows[:200]]), Vectors([rows[200:]])
    some = np.arange(0, 200, 2)
    found = []
    for exact in (1000, 1):
        search = find(queries, some, gallery, k=4, above=above, exact=exact, state=tmp_path / "cells", **SAME)
        edges = Edges.concatenate(list(read(compute(search, tmp_path / f"{exact}"))))
        found.append(set(zip(edges.rows.tolist(), edges.others.tolist(), edges.similarity.tolist(), strict=True)))
    assert read_json(tmp_path / "cells" / "probes.json")["cells"] == 31
    assert {row for row, _, _ in found[1]} <= set(some.tolist())
    assert len(found[0] & found[1]) >= 0.99 * len(found[0]) > 100


def test_a_search_lies_in_few_parts_and_only_missing_ones_are_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "QUERIES", 10)
    monkeypatch.setattr(pairs, "PARTS", 4)
    rows = Vectors([crowd(95)])
    search = find(rows, np.arange(95), k=3, above=0.5, exact=1000, state=tmp_path, **SAME)
    paths = compute(search, tmp_path / "edges")
    assert [path.name for path in paths] == ["0000.parquet", "0001.parquet", "0002.parquet", "0003.parquet"]
    whole = everything(search)
    kept = Edges.concatenate(list(read(paths)))
    assert all(getattr(kept, name).tobytes() == getattr(whole, name).tobytes() for name in vars(whole))
    before = [path.stat().st_mtime_ns for path in paths]
    paths[2].unlink()
    compute(search, tmp_path / "edges")
    after = [path.stat().st_mtime_ns for path in paths]
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, True, False, True]
