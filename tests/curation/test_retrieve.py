"""Retrieval: how many images a query or a cluster gives, and where each comes from."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dinokit.core.files import write_json
from dinokit.core.messages import UserError
from dinokit.curation import pairs
from dinokit.curation.cluster import identity
from dinokit.curation.neighbours import Edges
from dinokit.curation.pool import Pool
from dinokit.curation.retrieve import Config, by_cluster, by_sample, run
from dinokit.curation.table import read_table, write_table
from tests.curation.pools import files, make_pool, unit

CPU = torch.device("cpu")


def draw(rows: int, seed: int = 0) -> np.ndarray:
    """Vectors of length 1."""
    return unit(np.random.default_rng(seed).normal(size=(rows, 6)))


def clustered(folder: Path, centres: np.ndarray, pool: Pool, rows: np.ndarray | None = None) -> Path:
    """What the step cluster writes of level 1."""
    folder.mkdir()
    np.save(folder / "level1.npy", centres)
    vectors = pool.vectors.read(0, len(pool)) if rows is None else pool.vectors.take(rows)
    cluster = (vectors.astype(np.float64) @ centres.astype(np.float64).T).argmax(axis=1).astype(np.int32)
    write_table(folder / "level1.parquet", {"cluster": cluster})
    write_json(folder / "cluster.json", {"clusters": [len(centres)], "pool": identity(pool, rows)})
    return folder


def test_every_query_gives_its_nearest_and_an_image_counts_for_the_first(tmp_path: Path) -> None:
    vectors, asked = draw(50), draw(20, seed=1)
    pool, queries = make_pool(tmp_path / "pool", vectors), make_pool(tmp_path / "set", asked)
    nearest = [np.argsort(-(vectors.astype(np.float64) @ one), kind="stable")[:4] for one in asked.astype(np.float64)]
    expected, seen = [], set[int]()
    for query, found in enumerate(nearest):
        for rank, row in enumerate(found.tolist(), start=1):
            expected += [] if row in seen else [(f"{row}.png", f"{query}.png", rank)]
            seen.add(row)
    numbers = run(pool, Config(), tmp_path / "out", queries=queries, device=CPU)
    table = read_table(tmp_path / "out" / "selection.parquet")
    assert list(zip(table["key"], table["query"], table["rank"].tolist(), strict=True)) == expected
    assert (numbers["nominal"], numbers["retrieved"], numbers["different"]) == (80, len(seen), len(seen))
    counts = np.bincount(np.concatenate(nearest), minlength=50)
    assert table["hits"].tolist() == counts[table["place"]].tolist()
    numbers = run(pool, Config(unique=False), tmp_path / "all", queries=queries, device=CPU)
    assert (numbers["nominal"], numbers["retrieved"], numbers["different"]) == (80, 80, len(seen))


def test_the_first_query_wins_in_whatever_order_the_parts_come() -> None:
    later = Edges(np.array([5, 5]), np.array([7, 8]), np.array([0.9, 0.8], dtype=np.float32))
    earlier = Edges(np.array([2, 2]), np.array([9, 7]), np.array([0.7, 0.6], dtype=np.float32))
    found, nominal = by_sample([later, earlier], unique=True)
    assert nominal == 4
    assert found.rows.tolist() == [9, 7, 8]
    assert [found.columns[name].tolist() for name in ("query", "rank", "hits")] == [[2, 2, 5], [1, 2, 2], [1, 2, 1]]


def test_only_rows_that_may_be_taken_are(tmp_path: Path) -> None:
    pool, queries = make_pool(tmp_path / "pool", draw(50)), make_pool(tmp_path / "set", draw(9, seed=1))
    rows = np.array([3, 8, 21, 30, 49])
    for name, exact in (("all", 1000), ("cells", 1)):
        run(pool, Config(exact=exact, neighbours=2), tmp_path / name, queries=queries, rows=rows, device=CPU)
        table = read_table(tmp_path / name / "selection.parquet")
        assert set(table["place"].tolist()) <= set(rows.tolist())
        assert table["row"].tolist() == table["place"].tolist()
    with pytest.raises(UserError, match="made with other pool"):
        run(
            pool,
            Config(exact=1000, neighbours=2),
            tmp_path / "all",
            queries=queries,
            rows=rows + (rows < 9),
            device=CPU,
        )


def test_a_cluster_gives_if_more_than_so_many_queries_hit_it() -> None:
    assigned = np.repeat(np.arange(4), [50, 5, 30, 40]).astype(np.int32)
    own = np.repeat([0, 1, 2], [4, 7, 3])  # the third has not more than three, the fourth none
    found, nominal = by_cluster(own, assigned, Config(by="cluster", per_cluster=20))
    assert nominal == 25
    assert np.bincount(assigned[found.rows], minlength=4).tolist() == [20, 5, 0, 0]
    assert len(np.unique(found.rows)) == 25
    assert found.columns["hits"].tolist() == [4] * 20 + [7] * 5
    other, _ = by_cluster(own, assigned, Config(by="cluster", per_cluster=20, seed=1))
    assert other.rows.tolist() != found.rows.tolist()
    again, _ = by_cluster(own, assigned, Config(by="cluster", per_cluster=20))
    assert again.rows.tolist() == found.rows.tolist()
    capped, nominal = by_cluster(own, assigned, Config(by="cluster", per_cluster=20, cap=10))
    assert (len(np.unique(capped.rows)), nominal) == (10, 25)
    assert set(capped.rows.tolist()) <= set(found.rows.tolist())


def test_queries_lie_in_the_cluster_of_the_nearest_centre(tmp_path: Path) -> None:
    vectors, centres = draw(60), unit(np.eye(6))
    pool, queries = make_pool(tmp_path / "pool", vectors), make_pool(tmp_path / "set", unit(np.eye(6)[[1, 1, 1, 1, 4]]))
    clusters = clustered(tmp_path / "clusters", centres, pool)
    run(pool, Config(by="cluster"), tmp_path / "out", queries=queries, clusters=clusters, device=CPU)
    table = read_table(tmp_path / "out" / "selection.parquet")
    assert table["place"].tolist() == np.flatnonzero(read_table(clusters / "level1.parquet")["cluster"] == 1).tolist()
    assert set(table["cluster"].tolist()) == {1}
    assert set(table["hits"].tolist()) == {4}


def test_a_second_start_after_a_kill_ends_in_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool, queries = make_pool(tmp_path / "pool", draw(90)), make_pool(tmp_path / "set", draw(30, seed=1))
    config = Config(exact=1)
    run(pool, config, tmp_path / "whole", queries=queries, device=CPU)
    written, wrote = 0, pairs.write_table

    def killed(path: Path, columns: Any) -> None:
        nonlocal written
        written += 1
        if written in (2, 5):
            raise KeyboardInterrupt
        wrote(path, columns)

    monkeypatch.setattr(pairs, "write_table", killed)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(pool, config, tmp_path / "out", queries=queries, device=CPU)
    run(pool, config, tmp_path / "out", queries=queries, device=CPU)
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    pool, queries = make_pool(tmp_path / "pool", draw(9)), make_pool(tmp_path / "set", draw(3))
    config, out = Config(by="cluster"), tmp_path / "out"
    with pytest.raises(UserError, match="needs the clusters of the pool"):
        run(pool, config, out, queries=queries, device=CPU)
    with pytest.raises(UserError, match=r"holds no finished clusters \(no cluster.json\)"):
        run(pool, config, out, queries=queries, clusters=tmp_path, device=CPU)
    clusters = clustered(tmp_path / "clusters", unit(np.eye(6)), make_pool(tmp_path / "as many", draw(9, seed=2)))
    with pytest.raises(UserError, match=r"clusters holds the clusters of other embeddings than .*pool; cluster these"):
        run(pool, config, out, queries=queries, clusters=clusters, device=CPU)
    clusters = clustered(tmp_path / "some", unit(np.eye(6)), pool, np.arange(5))
    for rows in (None, np.arange(1, 6)):
        with pytest.raises(UserError, match=r"some holds the clusters of other images of .*pool; give both steps one"):
            run(pool, config, out, queries=queries, clusters=clusters, rows=rows, device=CPU)
    other = make_pool(tmp_path / "other", unit(np.eye(4)))
    with pytest.raises(UserError, match=r"other have 4 numbers, those of .*pool 6"):
        run(pool, Config(), out, queries=other, device=CPU)
    assert not out.exists()
