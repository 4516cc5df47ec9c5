"""Duplicates: components, who stays, and what references take along."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as group

from dinokit.core.messages import UserError
from dinokit.core.numbers import OutOfBounds
from dinokit.curation import dedup, neighbours, pairs
from dinokit.curation.dedup import Config, components, run
from dinokit.curation.neighbours import Edges
from dinokit.curation.pool import Pool
from dinokit.curation.table import read_table
from dinokit.sources.source import open_source
from tests.conftest import MakeFolder
from tests.curation.pools import files, make_pool, unit
from tests.ranks import on_ranks

CPU = torch.device("cpu")
IN_CELLS = Config(threshold=0.93, exact=1)
# at cosine 0.9: rows 0, 1, 2 are a chain of which the ends are less alike; 3 and 4 are equal; 5 is alone
CHAIN = unit([[1, 0, 0], [0.92, 0.39, 0], [0.7, 0.71, 0], [0, 0, 1], [0, 0, 1], [0, 0.6, -0.8]])


def decided(out: Path) -> list[tuple[int, str, int]]:
    """(row, reason, for whom) of all rows that were dropped."""
    table = read_table(out / "dropped.parquet")
    return list(zip(table["row"].tolist(), table["reason"].tolist(), table["other"].tolist(), strict=True))


def crowd(rows: int = 300) -> np.ndarray:
    """Rows around some directions, with near and equal copies."""
    draw = np.random.default_rng(3)
    found = draw.normal(size=(12, 16))[draw.integers(12, size=rows)] + 0.7 * draw.normal(size=(rows, 16))
    found[1::4] = found[0::4] + 0.1 * draw.normal(size=found[1::4].shape)
    found[7::20] = found[2]
    return unit(found)


def test_components_are_those_of_a_walk() -> None:
    draw = np.random.default_rng(0)
    for count, edges in ((1, 0), (30, 10), (200, 150), (200, 600)):
        rows, others = draw.integers(count, size=(2, edges))
        similarity = draw.random(edges).astype(np.float32)
        found = Edges(rows, others, similarity)
        lowest = np.arange(count)
        for _ in range(count):
            for row, other in zip(rows[similarity > 0.5], others[similarity > 0.5], strict=True):
                lowest[row] = lowest[other] = min(lowest[row], lowest[other])
        parts = [found.some(np.arange(edges) % 3 == part) for part in range(3)]
        assert components(np.arange(count), parts, above=0.5).tolist() == lowest.tolist()


def test_components_joined_in_turns_are_those_joined_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(1)
    parts = [Edges(*draw.integers(90, size=(2, 9)), np.ones(9, dtype=np.float32)) for _ in range(6)]
    first = np.arange(90)
    first[80:] = 5  # joined from the start
    whole = components(first, parts, above=0.0)
    monkeypatch.setattr(dedup, "WAITING", 1)
    assert components(first, parts, above=0.0).tolist() == whole.tolist()
    assert (whole[80:] == whole[5]).all()


def test_a_chain_is_one_group_and_the_largest_image_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pool = make_pool(tmp_path / "pool", CHAIN, widths=[10, 10, 20, 10, 10, 10])
    found = run(pool, Config(threshold=0.9), tmp_path / "out", device=CPU)
    assert decided(tmp_path / "out") == [(0, "duplicate", 2), (1, "duplicate", 2), (4, "duplicate", 3)]
    table = read_table(tmp_path / "out" / "selection.parquet")
    assert table["place"].tolist() == [2, 3, 5]
    assert table["key"].tolist() == ["2.png", "3.png", "5.png"]
    assert (found["kept"], found["duplicates"], found["groups"], found["largest group"]) == (3, 3, 2, 3)
    assert "3 in the largest group" in capsys.readouterr().err
    assert read_table(tmp_path / "out" / "dropped.parquet")["similarity"][2] == 1.0


@pytest.mark.parametrize(
    ("reach", "gone"),
    [
        ("component", [(0, "reference", 1), (1, "reference", 1), (2, "reference", 1), (4, "duplicate", 3)]),
        ("direct", [(1, "duplicate", 0), (2, "reference", 1), (4, "duplicate", 3)]),
    ],
)
def test_a_reference_takes_its_component_or_its_neighbours(tmp_path: Path, reach: Any, gone: list[Any]) -> None:
    pool = make_pool(tmp_path / "pool", CHAIN)
    against = make_pool(tmp_path / "set", unit([[0, -1, 0], [0.6, 0.8, 0]]))  # the second is like row 2 alone
    run(pool, Config(threshold=0.9, reach=reach), tmp_path / "out", against=against, device=CPU)
    assert decided(tmp_path / "out") == gone


def test_the_threshold_of_references_forms_components_of_its_own(tmp_path: Path) -> None:
    pool = make_pool(tmp_path / "pool", CHAIN)
    against = make_pool(tmp_path / "set", unit([[0, 1, -1]]))  # 0.99 with row 5, which is 0.43 with row 2
    config = Config(threshold=0.9, against_threshold=0.4)
    run(pool, config, tmp_path / "out", against=against, device=CPU)
    assert [row for row, reason, _ in decided(tmp_path / "out") if reason == "reference"] == [0, 1, 2, 5]


def test_an_equal_of_what_resembles_a_reference_does_not_stay(tmp_path: Path) -> None:
    pool = make_pool(tmp_path / "pool", CHAIN)
    against = make_pool(tmp_path / "set", unit([[0, 0.1, 1]]))
    run(pool, Config(threshold=0.9, reach="direct"), tmp_path / "out", against=against, device=CPU)
    assert [row for row, reason, _ in decided(tmp_path / "out") if reason == "reference"] == [3, 4]


def test_what_stays_is_a_source_of_images(tmp_path: Path, make_folder: MakeFolder) -> None:
    data = make_folder(*(f"{number}.png" for number in range(6)))
    pool = make_pool(tmp_path / "pool", CHAIN, data=str(data))
    run(pool, Config(threshold=0.9), tmp_path / "out", device=CPU)
    source = open_source(str(tmp_path / "out" / "selection.parquet"))
    assert [source.key(index) for index in range(len(source))] == ["0.png", "3.png", "5.png"]
    assert source.read(2).equal(open_source(str(data)).read(5))


def test_cells_find_the_groups_of_all_pairs(tmp_path: Path) -> None:
    pool, against = make_pool(tmp_path / "pool", crowd()), make_pool(tmp_path / "set", crowd()[:40])
    for name, exact in (("all", 1000), ("cells", 1)):
        run(pool, Config(threshold=0.93, exact=exact), tmp_path / name, device=CPU)
        config = Config(threshold=0.98, exact=exact, against_threshold=0.97)
        run(pool, config, tmp_path / f"{name} against", against=against, device=CPU)
    assert len(decided(tmp_path / "all")) > 80
    assert decided(tmp_path / "cells") == decided(tmp_path / "all")
    assert decided(tmp_path / "cells against") == decided(tmp_path / "all against")


def _on_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ["RANK"], neighbours.QUERIES = str(rank), 16
    for ranks in (3, 2):
        if rank < ranks:
            group.init_process_group("gloo", init_method=f"file://{folder}/{ranks}", rank=rank, world_size=ranks)
            run(Pool(Path(folder) / "pool"), IN_CELLS, Path(folder) / f"out{ranks}", device=CPU)
            group.destroy_process_group()


@pytest.mark.slow  # test_cluster.py starts ranks, too
def test_two_and_three_ranks_write_the_bytes_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "QUERIES", 16)
    run(make_pool(tmp_path / "pool", crowd()), IN_CELLS, tmp_path / "out1", device=CPU)
    on_ranks(_on_rank, str(tmp_path), count=3)
    assert files(tmp_path / "out2") == files(tmp_path / "out3") == files(tmp_path / "out1")


@pytest.mark.parametrize("exact", [1, 1000])
def test_a_second_start_after_a_kill_ends_in_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exact: int
) -> None:
    monkeypatch.setattr(neighbours, "QUERIES", 16)
    pool, against = make_pool(tmp_path / "pool", crowd(120)), make_pool(tmp_path / "set", crowd(40))
    config = Config(threshold=0.93, exact=exact)
    run(pool, config, tmp_path / "whole", against=against, device=CPU)
    written, kill_at, wrote = 0, 0, pairs.write_table

    def killed(path: Path, columns: Any) -> None:
        nonlocal written
        written += 1
        if written == kill_at:
            raise KeyboardInterrupt
        wrote(path, columns)

    monkeypatch.setattr(pairs, "write_table", killed)
    for kill_at in (3, 2, 9, 1):  # noqa: B007 - read by `killed`
        written = 0
        with pytest.raises(KeyboardInterrupt):
            run(pool, config, tmp_path / "out", against=against, device=CPU)
    kill_at = 0
    run(pool, config, tmp_path / "out", against=against, device=CPU)
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    pool = make_pool(tmp_path / "pool", CHAIN)
    out = tmp_path / "out"
    with pytest.raises(
        UserError, match=r"vectors of .*set have 4 numbers, those of .*pool 3; embed both with one model"
    ):
        run(pool, Config(threshold=0.9), out, against=make_pool(tmp_path / "set", unit(np.eye(4))), device=CPU)
    with pytest.raises(UserError, match="made with other weights"):
        against = make_pool(tmp_path / "other", CHAIN, weights="v")
        run(pool, Config(threshold=0.9), out, against=against, device=CPU)
    for name, value in (("nan", np.nan), ("zero", 0)):
        broken = make_pool(tmp_path / name, np.concatenate([CHAIN, np.full((1, 3), value, dtype=np.float16)]))
        with pytest.raises(UserError, match="row 6 of the embeddings holds"):
            run(broken, Config(threshold=0.9), out, device=CPU)
    assert not out.exists()
    with pytest.raises(UserError, match="auto needs the model"):
        run(pool, Config(), out, device=CPU)
    with pytest.raises(OutOfBounds, match="threshold must be auto, or between -1 and 1, got 2"):
        Config(threshold=2)


def test_another_result_is_not_overwritten(tmp_path: Path) -> None:
    pool = make_pool(tmp_path / "pool", CHAIN)
    first = run(pool, Config(threshold=0.9), tmp_path / "out", device=CPU)
    assert run(pool, Config(threshold=0.9), tmp_path / "out", device=CPU) == first
    with pytest.raises(UserError, match="made with other settings"):
        run(pool, Config(threshold=0.8), tmp_path / "out", device=CPU)


def test_more_neighbours_than_rows_are_all_of_them(tmp_path: Path) -> None:
    pool = make_pool(tmp_path / "pool", CHAIN[:1], parts=1)
    assert run(pool, Config(threshold=0.9, k=500), tmp_path / "out", device=CPU)["kept"] == 1
