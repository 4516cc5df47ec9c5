import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as group

from dinokit.core.messages import UserError
from dinokit.curation import cluster as module
from dinokit.curation import kmeans, level, start
from dinokit.curation.cluster import Config, cluster, levels_for, run
from dinokit.curation.table import read_table
from dinokit.curation.vectors import Vectors
from tests.curation.pools import files, make_pool
from tests.ranks import on_ranks

CPU = torch.device("cpu")
PLAIN = Config(levels=(30, 6), resample=2, iterations=3)
SPLIT = Config(levels=(40, 6), splits=4, resample=0, iterations=3)


def _rows(count: int = 400) -> np.ndarray:
    draw = np.random.default_rng(0)
    rows = draw.normal(size=(12, 6))[draw.integers(12, size=count)] + 0.4 * draw.normal(size=(count, 6))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def _run(out: Path, config: Config = PLAIN, rows: np.ndarray | None = None) -> dict[str, bytes]:
    cluster(Vectors([_rows() if rows is None else rows]), config, out, device=CPU)
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def test_every_level_clusters_the_centres_below(tmp_path: Path) -> None:
    found = _run(tmp_path)
    assert {name for name in found if not name.startswith(".")} == {
        *("level1.npy", "level1.parquet", "level2.npy", "level2.parquet"),
    }
    below = _rows()
    for number in (1, 2):
        table, centres = read_table(tmp_path / f"level{number}.parquet"), np.load(tmp_path / f"level{number}.npy")
        assert centres.dtype == np.float16
        apart = np.linalg.norm(below[:, None].astype(np.float64) - centres, axis=2)
        np.testing.assert_array_equal(table["cluster"], apart.argmin(axis=1))
        np.testing.assert_allclose(table["distance"], apart.min(axis=1), rtol=1e-6)
        assert np.bincount(table["cluster"]).min() > 0  # none is empty
        below = centres


def test_split_clusters_are_parts_of_one(tmp_path: Path) -> None:
    _run(tmp_path, SPLIT)
    centres = np.load(tmp_path / "level1.npy")
    assert 30 < len(centres) <= 40
    table = read_table(tmp_path / "level1.parquet")
    apart = np.linalg.norm(_rows()[np.arange(400)].astype(np.float64) - centres[table["cluster"]], axis=1)
    np.testing.assert_allclose(table["distance"], apart, rtol=1e-6)
    assert np.bincount(table["cluster"]).min() > 0


@contextmanager
def _ended_at(write: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the process be ended where the n-th file is about to take its place."""
    real, left = os.replace, [write]

    def replace(*paths: Any) -> None:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        real(*paths)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        yield


@pytest.mark.parametrize(("config", "first"), [(PLAIN, 1), (SPLIT, 4)], ids=["resampled", "split"])
def test_a_start_after_any_end_gives_the_same_bytes(
    config: Config, first: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(level, "TOGETHER", 3)
    whole, write = _run(tmp_path / "whole", config), 0
    for write in range(first, 100, 6):
        out = tmp_path / f"{write}"
        try:
            with _ended_at(write, monkeypatch):
                _run(out, config)
        except KeyboardInterrupt:
            assert not (out / "level2.parquet").exists()
        else:
            break
        assert _run(out, config) == whole
    assert write > 10


def _on_rank(rank: int, store: str, folder: str) -> None:
    torch.set_num_threads(1)
    group.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=3)
    _all_kinds(Path(folder))
    group.destroy_process_group()


def _all_kinds(folder: Path) -> None:
    level.TOGETHER, kmeans.CHUNK, start.CHUNK = 3, 64, 64  # type: ignore[attr-defined]
    _run(folder / "plain")
    _run(folder / "split", SPLIT)
    start.SMALL = 0
    _run(folder / "parallel")


def test_three_ranks_give_the_bytes_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for where, name in ((level, "TOGETHER"), (kmeans, "CHUNK"), (start, "CHUNK"), (start, "SMALL")):
        monkeypatch.setattr(where, name, getattr(where, name))  # put back at the end
    _all_kinds(tmp_path / "one")
    on_ranks(_on_rank, str(tmp_path / "store"), str(tmp_path / "three"), count=3)
    for path in (tmp_path / "one").rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "three" / path.relative_to(tmp_path / "one")).read_bytes(), path


def test_what_cannot_be_is_said_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="levels: expected at most 400 clusters of 400 vectors, got 401"):
        _run(tmp_path, Config(levels=(401,)))
    with pytest.raises(UserError, match="levels: expected at most 20 clusters of 20 vectors, got 30"):
        _run(tmp_path, Config(levels=(20, 30)))
    with pytest.raises(UserError, match="splits: expected at most the 20 clusters of level 1, got 21"):
        _run(tmp_path, Config(levels=(20,), splits=21))
    assert not list(tmp_path.iterdir())
    broken = _rows()
    broken[7] = np.nan
    with pytest.raises(UserError, match="row 7 of the embeddings holds numbers that are not finite"):
        run(make_pool(tmp_path / "pool", broken), PLAIN, tmp_path / "out", device=CPU)
    assert not (tmp_path / "out").exists()


def test_clusters_of_something_else_are_refused(tmp_path: Path) -> None:
    pool, out = make_pool(tmp_path / "pool", _rows()), tmp_path / "out"
    config = Config(levels=(9,), resample=0, iterations=1)
    told = run(pool, config, out, device=CPU)
    assert run(pool, config, out, device=CPU) == told
    with pytest.raises(
        UserError, match="was made with other settings .levels is .*; delete it, or give another folder"
    ):
        run(pool, Config(levels=(8,), resample=0, iterations=1), out, device=CPU)
    with pytest.raises(UserError, match="was made with other pool"):
        run(pool, config, out, rows=np.arange(200), device=CPU)


@pytest.mark.parametrize("lost", ["level1.npy", "level1.parquet", "level2.npy", "rows.parquet", "cluster.json"])
def test_what_was_deleted_is_computed_again(lost: str, tmp_path: Path) -> None:
    pool, out = make_pool(tmp_path / "pool", _rows()), tmp_path / "out"
    run(pool, PLAIN, out, device=CPU)
    whole = files(out)
    (out / lost).unlink()
    run(pool, PLAIN, out, device=CPU)
    assert files(out) == whole


@pytest.mark.parametrize(
    ("rows", "levels", "splits"),
    [
        (1, (1,), 1),
        (50, (2,), 1),
        (100_000, (5_000, 1_000), 1),
        (1_000_000, (20_000, 2_000), 1),
        (18_000_000, (500_000, 50_000, 10_000), 1),
        (100_000_000, (2_000_000, 200_000, 20_000), 100),
        (743_000_000, (10_040_540, 500_000, 50_000, 10_000), 100),  # 10 million
        (17_000_000_000, (200_000_000, 8_000_000, 800_000, 100_000, 25_000), 1_000),
    ],
)
def test_levels_suit_the_pool(rows: int, levels: tuple[int, ...], splits: int) -> None:
    assert levels_for(rows) == (levels, splits)


def test_splits_come_with_the_levels_of_the_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BY_SIZE", ((1e9, (10, 50), 4),))
    _run(tmp_path / "null", Config(resample=0, iterations=2))
    split = _run(tmp_path / "split", Config(levels=(40, 8), splits=4, resample=0, iterations=2))
    given = _run(tmp_path / "given", Config(levels=(40, 8), resample=0, iterations=2))
    assert (tmp_path / "null" / "level1.npy").read_bytes() == split["level1.npy"] != given["level1.npy"]


def test_two_entries_per_cluster_are_not_resampled(tmp_path: Path) -> None:
    once = _run(tmp_path / "once", Config(levels=(180,), resample=0, iterations=2))
    again = _run(tmp_path / "again", Config(levels=(180,), resample=3, iterations=2))
    assert once["level1.npy"] == again["level1.npy"]


def _far_from_uniform(points: np.ndarray, grid: np.ndarray) -> float:
    """Return the KL divergence of the points' density, by a Gaussian kernel of width 0.5, to a uniform one."""
    apart = ((grid[:, None] - points) ** 2).sum(axis=2)
    density = np.exp(-apart / 2 / 0.5**2).sum(axis=1) + 1e-300
    density /= density.sum()
    return float((density * np.log(density * len(grid))).sum())


def _divergences(folder: Path, scale: int, *kinds: tuple[tuple[int, ...], int]) -> list[float]:
    """Cluster 9,000 / scale points of a mixture in the plane by each (levels, resampling)."""
    draw = np.random.default_rng(1)
    blobs = [(draw.uniform(-2, 2, 2), width, count) for width, count in ((0.3, 4000), (0.5, 2500), (0.8, 1000))]
    rows = np.concatenate([c + w * draw.normal(size=(n, 2)) for c, w, n in blobs] + [draw.uniform(-3, 3, (1500, 2))])
    rows = rows[(abs(rows) < 3).all(axis=1)].astype(np.float16)[::scale]
    axis = np.linspace(-2.5, 2.5, 30)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    far = []
    for number, (levels, resample) in enumerate(kinds):
        out = folder / f"{number}"
        config = Config(levels=tuple(count // scale for count in levels), resample=resample, iterations=10)
        _run(out, config, rows)
        far.append(_far_from_uniform(np.load(out / f"level{len(levels)}.npy").astype(np.float64), grid))
    return far


def test_levels_flatten_the_density(tmp_path: Path) -> None:
    plain, two = _divergences(tmp_path, 3, ((300,), 0), ((1000, 300), 0))
    assert plain > 2 * two


@pytest.mark.slow
def test_a_third_level_and_resampling_flatten_what_levels_leave(tmp_path: Path) -> None:
    far = _divergences(tmp_path, 1, ((300,), 0), ((1000, 300), 0), ((3000, 1000, 300), 0), ((3000, 1000, 300), 10))
    assert far[0] > 2 * far[1], far
    assert far[1] > far[2] > far[3], far
