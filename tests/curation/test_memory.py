from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from dinokit.core.messages import UserError
from dinokit.curation import cluster, memory
from dinokit.curation.vectors import BLOCK, Vectors
from tests.curation.pools import files, make_pool


@pytest.mark.parametrize(
    ("size", "wanted"), [("2GiB", 2 << 30), ("500MB", 500_000_000), ("1.5 gib", 3 << 29), ("4096", 4096)]
)
def test_sizes_are_read_as_they_are_written(size: str, wanted: int) -> None:
    assert memory.in_bytes(size) == wanted


@pytest.mark.parametrize("size", ["2G", "lots", "-1GB", "1..5GB", ""])
def test_what_is_no_size_is_said(size: str) -> None:
    with pytest.raises(UserError, match="memory: expected a size such as 2GiB"):
        memory.in_bytes(size)


def test_more_rows_and_centres_leave_less_to_read_until_nothing_fits() -> None:
    def block(rows: int, centres: int) -> int:
        return memory.block_within(2 << 30, rows=rows, dim=384, centres=centres, kept=centres)

    assert block(1_000, 10) == BLOCK
    assert BLOCK > block(6 * 10**6, 20_000) > block(7 * 10**6, 20_000)
    with pytest.raises(UserError, match=r"100,000 centres at a time take 3\.\d GiB, got 2; give more"):
        block(10**6, 100_000)


def test_less_memory_reads_less_at_a_time_and_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, blocks = list[int](), Vectors.blocks

    def told(self: Vectors, *borders: int) -> Iterator[tuple[int, np.ndarray]]:
        for first, rows in blocks(self, *borders):
            read.append(len(rows))
            yield first, rows

    monkeypatch.setattr(Vectors, "blocks", told)
    monkeypatch.setattr(memory, "LEAST", 1)
    pool = make_pool(tmp_path / "pool", np.random.default_rng(0).normal(size=(300, 8)).astype(np.float16), parts=1)
    config = cluster.Config(levels=(12, 3), resample=1, iterations=3)
    needed = memory.PROCESS + memory.ROW * 300 + (memory.CENTRE + memory.KEPT) * 12 * 8
    found = []
    for name, given, most in (("whole", None, 300), ("pieces", needed + memory.NUMBER * 8 * 10, 10)):
        read.clear()
        out = tmp_path / name
        cluster.run(pool, config, out, memory=given, device=torch.device("cpu"))
        assert max(read) == most
        found.append(files(out))
    assert found[0] == found[1]
