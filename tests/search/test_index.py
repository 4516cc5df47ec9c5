"""A folder that is changed answers as one that is built anew, and one whose change was killed as before."""

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dinokit.core.files import read_json, write_json
from dinokit.core.messages import UserError
from dinokit.curation.pool import Pool
from dinokit.search import change, index, near, rows
from dinokit.search.index import Index, called
from tests.curation.pools import make_pool
from tests.search.indices import made, names, noise

ASKED = noise(5, seed=9)


@pytest.mark.parametrize("held", [10**9, 0])
def test_added_and_removed_equals_built_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int) -> None:
    monkeypatch.setattr(rows, "HELD", held)
    first, second = noise(20), noise(15, seed=1)
    changed = made(tmp_path / "i", first)
    make_pool(tmp_path / "i" / "pool-1", second, model="m", data="/second")
    changed = change.added(changed, "pool-1")
    changed, count = change.removed(changed, ["3.png", "1?.png"])
    assert count == 2 + 10 + 5  # of both sources
    left = [row for row in range(20) if row != 3 and row < 10]
    right = [row for row in range(15) if row != 3 and row < 10]
    fresh = made(tmp_path / "fresh", np.concatenate([first[left], second[right]]))
    one = changed.nearest(ASKED.astype(np.float64), k=8)
    other = fresh.nearest(ASKED.astype(np.float64), k=8)
    expected = [*left, *(20 + row for row in right)]
    for mine, theirs in zip(one, other, strict=True):
        assert mine.rows.tolist() == [expected[row] for row in theirs.rows.tolist()]
        assert np.array_equal(mine.cosines, theirs.cosines)
    assert {each.source for each in changed.entries(np.array([2, 21]))} == {"/first", "/second"}


def test_what_was_removed_comes_back_by_its_name(tmp_path: Path) -> None:
    whole = made(tmp_path / "i", noise(12))
    less, _ = change.removed(whole, ["1.png", "2.png"])
    assert len(less) == 10
    with pytest.raises(UserError, match="no image of .* is called 1.png"):
        change.removed(less, ["1.png"])
    with pytest.raises(UserError, match="all 10 images of .* would be removed"):
        change.removed(less, ["*"])
    again, count = change.restored(less, ["1*"])
    assert (len(again), count) == (11, 1)
    with pytest.raises(UserError, match=r"nothing that was removed .* is called 7.png"):
        change.restored(again, ["7.png"])


def test_a_name_with_brackets_is_the_image_of_that_name_alone() -> None:
    keys = ["img1.png", "img[1].png", "c.png"]
    assert called(keys, "img[1].png") == [1]
    assert called(keys, "img[1-2].png") == [0]
    assert called(keys, "img*") == [0, 1]


def test_a_source_that_grew_takes_the_place_of_what_it_was_and_removed_images_stay_out(tmp_path: Path) -> None:
    vectors = noise(9)
    before, _ = change.removed(made(tmp_path / "i", vectors[:6]), ["0.png"])
    piece = change.place_for(tmp_path / "i", "/first", None)
    assert piece == "pool-1"
    make_pool(tmp_path / "i" / piece, vectors, model="m", data="/first")
    after = change.added(before, piece)
    assert (len(after), [each.folder for each in after.about.pieces]) == (8, ["pool-1"])
    assert [found for (found,) in names(after, vectors[1:], 1)] == [f"{row}.png" for row in range(1, 9)]


def test_who_has_the_index_open_reads_on_and_the_next_change_tidies_up(tmp_path: Path) -> None:
    vectors, folder = noise(9), tmp_path / "i"
    made(folder, vectors[:6])
    reader = Index(folder)  # which reads no row yet
    make_pool(folder / "pool-1", vectors, model="m", data="/first")
    after = change.added(Index(folder), "pool-1")
    assert names(reader, vectors[:6], 1) == [[f"{row}.png"] for row in range(6)]
    assert change.place_for(folder, "/first", None) == "pool-2"  # not what is read
    change.removed(after, ["8.png"])
    assert sorted(path.name for path in folder.glob("pool-*")) == ["pool-1"]


def test_folders_that_are_not_ours_are_left_alone(tmp_path: Path) -> None:
    index = made(tmp_path / "i", noise(4))
    for name in ("pool-old", "pool-7", "pool-", "pool-007"):
        (tmp_path / "i" / name).mkdir()
    (tmp_path / "i" / "mine.faiss").touch()
    assert change.place_for(tmp_path / "i", "/second", None) == "pool-8"
    change.removed(index, ["1.png"])
    found = sorted(path.name for path in (tmp_path / "i").glob("pool-*"))
    assert found == ["pool-", "pool-0", "pool-007", "pool-7", "pool-old"]
    assert (tmp_path / "i" / "mine.faiss").exists()


@pytest.mark.parametrize("stage", ["embedded", "written"])
def test_a_change_that_is_killed_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    before = made(tmp_path / "i", noise(20))
    wanted = names(before, ASKED, 4)
    make_pool(tmp_path / "i" / "pool-1", noise(5, seed=3), model="m", data="/second")
    if stage == "written":

        def killed(*_: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(change, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            change.added(before, "pool-1")
        monkeypatch.undo()
    left = Index(tmp_path / "i")
    assert (len(left), names(left, ASKED, 4)) == (20, wanted)
    # the same change goes on with what is there
    assert change.place_for(tmp_path / "i", "/second", None) == "pool-1"
    assert len(change.added(left, "pool-1")) == 25


def test_rows_of_other_weights_are_refused(tmp_path: Path) -> None:
    own = made(tmp_path / "i", noise(6))
    make_pool(tmp_path / "i" / "pool-1", noise(6), model="other", data="/second", weights="v")
    with pytest.raises(UserError, match=r"was embedded by other \(cls\), the index by m \(cls\)"):
        change.added(own, "pool-1")
    assert len(Index(tmp_path / "i")) == 6


def test_a_pool_is_shared_and_not_written_to(tmp_path: Path) -> None:
    pool = make_pool(tmp_path / "pool", noise(10), model="m")
    change.linked(pool.folder, tmp_path / "i" / "pool-0")
    found = change.begin(tmp_path / "i", "pool-0", by="cls", kind="exact")
    assert (tmp_path / "i/pool-0/part-00000.npy").samefile(tmp_path / "pool/part-00000.npy")
    change.removed(found, ["1.png"])
    assert len(Pool(tmp_path / "pool")) == 10
    assert len(Index(tmp_path / "pool")) == 10  # a pool is searched as it is


def test_near_duplicates_are_each_pair_once_and_none_that_was_removed(tmp_path: Path) -> None:
    vectors = noise(30)
    vectors[20], vectors[25], vectors[8] = vectors[4], vectors[4], vectors[2]
    found = made(tmp_path / "i", vectors)
    pairs = near.pairs(found.rows, above=0.999)
    assert sorted(zip(pairs.rows.tolist(), pairs.others.tolist(), strict=True)) == [(2, 8), (4, 20), (4, 25), (20, 25)]
    assert pairs.similarity == pytest.approx(1, abs=1e-6)
    less, _ = change.removed(found, ["4.png"])
    pairs = near.pairs(less.rows, above=0.999)
    assert sorted(zip(pairs.rows.tolist(), pairs.others.tolist(), strict=True)) == [(2, 8), (20, 25)]


def test_pairs_that_are_not_listed_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(near, "NEIGHBOURS", 3)
    found = made(tmp_path / "i", np.concatenate([np.repeat(noise(1), 5, axis=0), noise(9, seed=1)]))
    near.pairs(found.rows, above=0.999)
    assert "5 images have 3 such pairs or more" in capsys.readouterr().err


def test_threads_that_ask_at_once_make_the_rows_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, made_, read = made(tmp_path / "i", noise(9)).rows, list[int](), rows.Rows._read

    def slowly(self: rows.Rows) -> Any:
        made_.append(1)
        time.sleep(0.05)
        return read(self)

    monkeypatch.setattr(rows.Rows, "_read", slowly)
    threads = [threading.Thread(target=lambda: list(found.blocks())) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(made_) == 1


def test_a_folder_that_is_none_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no index \(no search.json\)"):
        Index(tmp_path)
    made(tmp_path / "i", noise(4))
    told = read_json(tmp_path / "i" / index.NAME)
    write_json(tmp_path / "i" / index.NAME, told | {"by": "nose"})
    with pytest.raises(UserError, match="was not written by this dinokit search"):
        Index(tmp_path / "i")
