"""What is found is what a naive loop finds: in any number of blocks, without what was removed, and through faiss."""

import sys
from pathlib import Path

import numpy as np
import pytest

from dinokit.core.messages import UserError
from dinokit.search import change, nearest, rows
from dinokit.search.index import Index
from tests.curation.pools import unit
from tests.search.indices import made, names, noise


def naive(vectors: np.ndarray, asked: np.ndarray, k: int, gone: set[int] = frozenset()) -> list[list[int]]:
    wide = vectors.astype(np.float64)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    cosines = asked.astype(np.float64) @ wide.T
    return [
        [row for row in sorted(range(len(vectors)), key=lambda row: (-line[row], row)) if row not in gone][:k]
        for line in cosines
    ]


@pytest.mark.parametrize("held", [True, False])
def test_exact_is_a_naive_loop_however_the_rows_are_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: bool
) -> None:
    vectors, asked = noise(203), noise(7, seed=1)
    vectors[150] = vectors[3]  # equal ones: the lower row first
    monkeypatch.setattr(rows, "STEP", 8 * 30)
    monkeypatch.setattr(nearest, "TILE", 17)
    monkeypatch.setattr(nearest, "MORE", 2)
    monkeypatch.setattr(rows, "HELD", 10**9 if held else 0)
    index = made(tmp_path / "i", vectors)
    index, _ = change.removed(index, ["5.png", "9?.png"])
    gone = {5, *range(90, 100)}
    asked[0] = vectors[3]
    found = index.nearest(asked.astype(np.float64), k=12)
    assert [each.rows.tolist() for each in found] == naive(vectors, asked, 12, gone)
    assert found[0].rows[:2].tolist() == [3, 150]
    assert len(index.nearest(asked.astype(np.float64), k=999)[0].rows) == 203 - 11


def test_an_image_finds_itself_first(tmp_path: Path) -> None:
    vectors = noise(60)
    index = made(tmp_path / "i", vectors)
    assert [found[0] for found in names(index, vectors, 1)] == [f"{row}.png" for row in range(60)]
    assert index.nearest(index.vector(7), k=1)[0].cosines == pytest.approx([1], abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_of_twins_the_lower_row_comes_first_however_many_are_asked_for(tmp_path: Path, seed: int) -> None:
    vectors = noise(40, dim=96, seed=seed)
    twins = ((3, 32), (4, 5), (0, 39))
    for low, high in twins:
        vectors[high] = vectors[low]
    index, asked = made(tmp_path / "i", vectors), noise(2, dim=96, seed=seed + 50)
    asked = np.concatenate([vectors[[low for low, _ in twins]], asked]).astype(np.float64)
    whole = index.nearest(asked, k=40)
    for k in range(1, 40):
        for found, wanted in zip(index.nearest(asked, k=k), whole, strict=True):
            assert found.rows.tolist() == wanted.rows[:k].tolist()
    for found in whole:
        order = found.rows.tolist()
        assert [order.index(high) - order.index(low) for low, high in twins] == [1, 1, 1]


@pytest.mark.parametrize("tile", [7, 1 << 14])
def test_of_many_equal_images_the_lowest_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tile: int) -> None:
    monkeypatch.setattr(nearest, "TILE", tile)
    vectors, empty = noise(150, dim=96), np.arange(2, 150, 2)
    vectors[empty] = vectors[empty[-1]]
    index = made(tmp_path / "i", vectors)
    for k in (1, 3, 20, 60, 74, 80, 150):
        (found,) = index.nearest(vectors[empty[:1]].astype(np.float64), k=k)
        assert found.rows[:74].tolist() == empty[:k].tolist()
        assert len(set(found.rows.tolist())) == k


def test_faiss_finds_what_is_there_and_not_what_was_removed(tmp_path: Path) -> None:
    vectors, asked = noise(400), noise(20, seed=1)
    index = made(tmp_path / "i", vectors, kind="faiss")
    assert index.about.engine.file is not None
    assert index.about.engine.recall >= 0.99
    index, _ = change.removed(Index(tmp_path / "i"), ["1*.png"])
    gone = {row for row in range(400) if str(row).startswith("1")}
    found = [each.rows.tolist() for each in index.nearest(asked.astype(np.float64), k=10)]
    exact = naive(vectors, asked, 10, gone)
    assert not any(set(each) & gone for each in found)
    assert np.mean([len(set(one) & set(two)) / 10 for one, two in zip(found, exact, strict=True)]) > 0.99


@pytest.mark.parametrize("left_out", [False, True])
def test_where_all_that_is_like_a_query_was_removed_faiss_finds_the_nearest_of_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left_out: bool
) -> None:
    monkeypatch.setattr(nearest, "REACH", (32,))
    vectors = noise(1500, dim=16)
    vectors[:600] = unit(vectors[0] + 0.1 * noise(600, dim=16, seed=2).astype(np.float32))  # most of what is near
    index = made(tmp_path / "i", vectors, kind="faiss")
    gone = np.arange(1500) < 600
    if left_out:
        assert len(index.nearest(vectors[:1].astype(np.float64), k=10)[0].rows) == 10
        index.leave_out(gone)
    else:
        index, _ = change.removed(index, [f"{row}.png" for row in range(600)])
    asked = vectors[:40].astype(np.float32)
    found = [each.rows.tolist() for each in index.nearest(asked.astype(np.float64), k=10)]
    assert {len(each) for each in found} == {10}
    exact = naive(vectors, asked, 10, set(range(600)))
    assert np.mean([len(set(one) & set(two)) / 10 for one, two in zip(found, exact, strict=True)]) > 0.97


def test_how_much_faiss_finds_is_measured_by_what_is_like_rows_and_none_of_them(tmp_path: Path) -> None:
    draw = np.random.default_rng(3)
    centres = draw.standard_normal((12, 16))
    vectors = unit(np.repeat(centres, 15, axis=0) + 0.2 * draw.standard_normal((180, 16)))
    index = made(tmp_path / "i", vectors)
    rows = index.rows
    some = np.arange(0, 180, 4)
    asked = nearest.strangers(rows, some)
    assert np.linalg.norm(asked, axis=1) == pytest.approx(np.ones(45), abs=1e-5)
    cosines = asked @ rows.take(np.arange(180)).T
    assert (cosines.max(axis=1) < 0.9999).all()
    assert (cosines.argmax(axis=1) // 15 == some // 15).all()  # of the cluster of the row
    assert (nearest.strangers(rows, some) == asked).all()


def test_one_image_is_an_index_of_any_kind(tmp_path: Path) -> None:
    index = made(tmp_path / "i", noise(1), kind="faiss")
    assert names(index, noise(1), 3) == [["0.png"]]


def test_large_indices_alone_are_not_searched_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert made(tmp_path / "a", noise(40), kind="auto").about.engine.file is None
    monkeypatch.setattr(nearest, "EXACT", 40 * 8 - 1)
    assert made(tmp_path / "b", noise(40), kind="auto").about.engine.file is not None


def test_without_faiss_auto_looks_at_all_and_says_so_until_there_is_faiss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(nearest, "EXACT", 40 * 8 - 1)
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "faiss", None)
        index = made(tmp_path / "a", noise(40), kind="auto")
        said = capsys.readouterr().err
        assert "every search looks at all 40 images, for faiss is not installed; run: pip install" in said
        assert said.count("\n") == 1
        assert (index.about.kind, index.about.engine.file) == ("auto", None)
        assert names(index, noise(40)[7:8], 1) == [["7.png"]]
        with pytest.raises(UserError, match="faiss is not installed"):
            made(tmp_path / "b", noise(40), kind="faiss")
    assert change.commit(tmp_path / "a", index.about).about.engine.file is not None


def test_a_damaged_graph_is_one_line(tmp_path: Path) -> None:
    index = made(tmp_path / "i", noise(40), kind="faiss")
    (tmp_path / "i" / str(index.about.engine.file)).write_bytes(b"no graph")
    with pytest.raises(UserError, match=r"is damaged .*; `dinokit search add` writes it again"):
        Index(tmp_path / "i").nearest(noise(1).astype(np.float64), k=1)
