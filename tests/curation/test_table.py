"""Tables and arrays of a curation: what another program may have left of them, and a full disk."""

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dinokit.core.messages import UserError
from dinokit.curation.table import read_places, write_array, write_table


def test_places_of_any_whole_type_are_read(tmp_path: Path) -> None:
    write_table(tmp_path / "t.parquet", {"place": np.array([4, 0], dtype=np.uint8), "more": ["a", "b"]})
    found = read_places(tmp_path / "t.parquet", "place", below=5, count=2)
    assert (found.tolist(), found.dtype) == ([4, 0], np.int64)


@pytest.mark.parametrize("values", [[0, 5], [-1, 0], [0.0, 1.0], [0, None], [0], [], ["0", "1"]])
def test_what_is_no_place_is_one_line(values: list[Any], tmp_path: Path) -> None:
    write_table(tmp_path / "t.parquet", {"place": values})
    with pytest.raises(UserError, match=r"expected 2 whole numbers from 0 to 4 in the column place; delete it and run"):
        read_places(tmp_path / "t.parquet", "place", below=5, count=2)
    with pytest.raises(UserError, match=r"t\.parquet cannot be read: .*; delete it and run the step again"):
        read_places(tmp_path / "t.parquet", "cluster", below=5)


def test_a_full_disk_is_told_in_the_words_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("1234 requested and 56 written")  # as NumPy says it

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match="No space left on device") as error:
        write_array(tmp_path / "a.npy", np.zeros(3))
    assert (error.value.errno, error.value.filename) == (errno.ENOSPC, str(tmp_path / "a.npy"))
    assert not list(tmp_path.iterdir())
