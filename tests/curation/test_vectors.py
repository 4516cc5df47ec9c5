from pathlib import Path

import numpy as np
import pytest

from dinokit.core.files import digest
from dinokit.core.messages import UserError
from dinokit.curation import vectors as module
from dinokit.curation.vectors import Vectors, check_finite


def _parts(folder: Path, sizes: list[int], dim: int = 3) -> tuple[list[Path], np.ndarray]:
    whole = np.arange(sum(sizes) * dim, dtype=np.float16).reshape(-1, dim) + 1
    paths = [folder / f"{number}.npy" for number in range(len(sizes))]
    for path, part in zip(paths, np.split(whole, np.cumsum(sizes)[:-1]), strict=True):
        np.save(path, part)
    return paths, whole


def test_rows_run_on_over_the_borders_of_parts(tmp_path: Path) -> None:
    paths, whole = _parts(tmp_path, [4, 0, 1, 5])
    vectors = Vectors(paths)
    assert len(vectors) == 10
    for start in range(11):
        for stop in range(start, 12):
            np.testing.assert_array_equal(vectors.read(start, stop), whole[start:stop])
    rows = np.array([9, 0, 4, 4, 3])
    np.testing.assert_array_equal(vectors.take(rows), whole[rows])
    vectors.block = 9  # three rows
    blocks = list(vectors.blocks(1, 9))
    assert [first for first, _ in blocks] == [1, 4, 7]
    assert vectors.pieces(1, 9) == 3
    np.testing.assert_array_equal(np.concatenate([rows for _, rows in blocks]), whole[1:9])


def test_a_subset_of_a_subset_is_a_subset(tmp_path: Path) -> None:
    paths, whole = _parts(tmp_path, [4, 6])
    some = Vectors(paths).subset(np.array([8, 1, 5, 2])).subset(np.array([3, 0]))
    assert len(some) == 2
    np.testing.assert_array_equal(some.read(0, 2), whole[[2, 8]])
    np.testing.assert_array_equal(some.take(np.array([1])), whole[[8]])


def test_rows_from_all_over_a_part_map_a_stretch_of_it_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = np.arange(300, dtype=np.float16).reshape(100, 3)
    np.save(tmp_path / "part.npy", rows)
    vectors, wanted = Vectors([rows[:7], tmp_path / "part.npy"]), np.array([106, 3, 7, 50, 8, 105, 56])
    opened, load = list[int](), np.load
    monkeypatch.setattr(module, "SPAN", 3 * 10)
    monkeypatch.setattr(np, "load", lambda *args, **options: opened.append(1) or load(*args, **options))
    np.testing.assert_array_equal(vectors.take(wanted), np.concatenate([rows[:7], rows])[wanted])
    assert len(opened) == 3  # rows 0 to 9, 40 to 49 and 90 to 99 of the file


def test_a_subset_reads_nothing(tmp_path: Path) -> None:
    paths, _ = _parts(tmp_path, [4, 6])
    vectors = Vectors(paths)
    for path in paths:
        path.unlink()
    assert len(vectors.subset(np.array([8, 1]))) == 2


def test_parts_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    paths, _ = _parts(tmp_path, [4])
    np.save(tmp_path / "wide.npy", np.zeros((2, 5), dtype=np.float16))
    np.save(tmp_path / "deep.npy", np.zeros((2, 3), dtype=np.float32))
    (tmp_path / "cut.npy").write_bytes(paths[0].read_bytes()[:-1])
    with pytest.raises(UserError, match=r"wide.npy has vectors of 5 numbers, the first part of 3"):
        Vectors([*paths, tmp_path / "wide.npy"])
    with pytest.raises(UserError, match=r"deep.npy holds float32 of shape \(2, 3\), expected rows of float16"):
        Vectors([tmp_path / "deep.npy"])
    with pytest.raises(UserError, match=r"cut.npy is no whole .npy file"):
        Vectors([tmp_path / "cut.npy"])
    with pytest.raises(UserError, match=r"cannot read .*none.npy"):
        Vectors([tmp_path / "none.npy"])
    with pytest.raises(UserError, match="no part"):
        Vectors([])


@pytest.mark.parametrize(
    ("value", "said"),
    [(np.nan, "not finite"), (np.inf, "not finite"), (0, "row 5 of the embeddings holds zeros alone")],
)
def test_a_vector_without_a_direction_is_named(value: float, said: str) -> None:
    rows = np.ones((9, 4), dtype=np.float16)
    assert check_finite(Vectors([rows])) == digest([rows])
    rows[5, 1:] = value
    rows[5, 0] = 0
    with pytest.raises(UserError, match=said):
        check_finite(Vectors([rows]))
    with pytest.raises(UserError, match="row 25 of"):
        check_finite(Vectors([rows]), first=20)


def test_rows_in_memory_keep_their_type() -> None:
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    vectors = Vectors([rows[:1], rows[1:]])
    assert vectors.take(np.array([3, 0])).dtype == vectors.read(0, 0).dtype == np.float32
    np.testing.assert_array_equal(vectors.take(np.array([3, 0])), rows[[3, 0]])
