"""Images that were deleted after they were embedded are not found, and it is said; only what is found is looked for."""

import os
from pathlib import Path

import numpy as np
import pytest

from dinokit.core.messages import UserError
from dinokit.search import change, index, there
from dinokit.search.index import Index
from dinokit.search.nearest import Kind
from dinokit.sources.source import folder_of
from tests.curation.pools import unit
from tests.search.indices import made, noise
from tests.search.test_nearest import naive

ROWS = 60


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of files that are called as images are."""
    (tmp_path / "photos").mkdir()
    for row in range(ROWS):
        (tmp_path / "photos" / f"{row}.png").touch()
    return tmp_path / "photos"


def near(found: Index, vectors: np.ndarray, *, k: int, but: int | None = None) -> there.Near:
    return there.nearest(found, vectors.astype(np.float64), k=k, but=but)


def test_of_the_nearest_those_that_are_there_are_found_and_the_others_named(tmp_path: Path, photos: Path) -> None:
    vectors = noise(ROWS)
    found = made(tmp_path / "i", vectors, data=str(photos))
    order = [row for row in naive(vectors, vectors[7:8], ROWS)[0] if row != 7]
    lost = [*order[:3], order[6]]
    for row in lost:
        (photos / f"{row}.png").unlink()
    left = [row for row in order if row not in lost]
    three = near(found, vectors[7:8], k=3, but=7)
    assert three.found.rows.tolist() == left[:3]
    assert three.gone == tuple(f"{row}.png" for row in order[:3])  # of the sixth, farther away, nobody asks
    seven = found.nearest(vectors[7:8].astype(np.float64), k=7)[0]
    assert three.found.cosines.tolist() == seven.cosines[4:].tolist()
    every = near(found, vectors[7:8], k=99, but=7)
    assert every.found.rows.tolist() == left
    assert every.gone == tuple(f"{row}.png" for row in order if row in lost)


def test_a_file_is_looked_for_only_if_its_image_is_found(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, asked, stat = made(tmp_path / "i", noise(ROWS), data=str(photos)), list[str](), os.stat
    assert found.folders == [str(photos)]
    monkeypatch.setattr(index.os, "stat", lambda path, **rest: asked.append(str(path)) or stat(path, **rest))
    assert not near(found, noise(ROWS)[:1], k=5).gone
    assert len({path for path in asked if path.endswith(".png")}) == 5


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("kind", ["exact", "faiss"])
def test_however_many_of_the_nearest_are_gone_those_that_are_there_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, k: int, kind: Kind
) -> None:
    monkeypatch.setattr(there, "MOST", 4)
    vectors = noise(ROWS)
    photos = tmp_path / "photos"
    photos.mkdir()
    order = naive(vectors, vectors[7:8], ROWS)[0]
    for row in (7, *order[40:42]):  # the query's own, and two that are far from it
        (photos / f"{row}.png").touch()
    found = made(tmp_path / "i", vectors, data=str(photos), kind=kind)
    one = near(found, vectors[7:8], k=k, but=7)
    assert one.found.rows.tolist() == order[40:42][:k]
    assert one.found.cosines == pytest.approx((vectors[order[40:42]] @ vectors[7])[:k], abs=2e-3)  # float16
    assert set(one.gone) <= {f"{row}.png" for row in order[:40]}
    assert len(found) == ROWS  # which is asked again as it was


@pytest.mark.parametrize("most", [1, 64])
def test_where_none_of_the_files_is_there_the_names_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(there, "MOST", most)
    vectors, mount = noise(ROWS), tmp_path / "mount"
    mount.mkdir()
    (tmp_path / "list.txt").write_text("".join(f"{row}.png\n" for row in range(ROWS)))
    vectors[31] = vectors[30]
    order = [row for row in naive(vectors, vectors[7:8], ROWS)[0] if row != 7]
    for place, data in enumerate([mount, tmp_path / "list.txt"]):
        found = made(tmp_path / f"{place}", vectors, data=str(data))
        three = near(found, vectors[7:8], k=3, but=7)
        assert three.found.rows.tolist() == order[:3]
        assert three.gone == tuple(f"{row}.png" for row in order[:3])
        (pair,), lost = there.twins(found, above=0.9999)
        assert ({pair.one.name, pair.other.name}, lost) == ({"30.png", "31.png"}, 0)


def test_where_a_source_is_gone_as_a_whole_its_names_are_found(tmp_path: Path) -> None:
    found = made(tmp_path / "i", noise(ROWS), data=str(tmp_path / "nowhere"))
    assert near(found, noise(ROWS)[:1], k=1).found.rows.tolist() == [0]


def test_of_pairs_those_whose_images_are_there_are_listed(tmp_path: Path, photos: Path) -> None:
    vectors = noise(ROWS)
    vectors[[11, 21, 31]] = unit(vectors[[10, 20, 30]])
    found = made(tmp_path / "i", vectors, data=str(photos))
    (photos / "21.png").unlink()
    pairs, lost = there.twins(found, above=0.999)
    assert {(pair.one.name, pair.other.name) for pair in pairs} == {("10.png", "11.png"), ("30.png", "31.png")}
    assert lost == 1


def test_all_that_are_gone_are_removed_at_once(tmp_path: Path, photos: Path) -> None:
    found = made(tmp_path / "i", noise(ROWS), data=str(photos))
    for row in (3, 40):
        (photos / f"{row}.png").unlink()
    assert change.gone(found).tolist() == [3, 40]
    left, count = change.without(found, change.gone(found))
    assert (len(left), count) == (ROWS - 2, 2)
    assert Index(tmp_path / "i").about.pieces[0].removed == ("3.png", "40.png")
    assert not len(change.gone(left))
    for path in photos.iterdir():
        path.unlink()
    with pytest.raises(UserError, match="no images in"):
        change.gone(left)


@pytest.mark.parametrize("ending", ["txt", "csv", "jsonl"])
def test_what_a_list_names_and_is_not_there_is_gone_too(tmp_path: Path, photos: Path, ending: str) -> None:
    names = [f"{row}.png" for row in range(ROWS)]
    lines = {"txt": names, "csv": ["path", *names], "jsonl": [f'{{"path": "{name}"}}' for name in names]}[ending]
    source = photos / f"list.{ending}"
    source.write_text("\n".join(lines))
    vectors = noise(ROWS)
    found = made(tmp_path / "i", vectors, data=str(source))
    (photos / "3.png").unlink()
    source.write_text("\n".join(line for line in lines if "40.png" not in line))  # a file that is listed no more
    assert near(found, vectors[3:4], k=1).gone == ("3.png",)
    assert change.gone(found).tolist() == [3, 40]
    left, _ = change.without(found, change.gone(found))
    assert not near(left, vectors[3:4], k=1).gone
    for path in photos.glob("*.png"):
        path.unlink()
    with pytest.raises(UserError, match=rf"none of the images of .*list.{ending} is where it was; put them back"):
        change.gone(left)


def test_of_no_rows_nothing_is_written(tmp_path: Path) -> None:
    found = made(tmp_path / "i", noise(ROWS))
    before = (tmp_path / "i" / index.NAME).stat()
    after, count = change.without(found, np.arange(0))
    assert (after, count) == (found, 0)
    assert (tmp_path / "i" / index.NAME).stat().st_ino == before.st_ino  # a whole one would be renamed into place


def test_where_the_files_of_a_source_lie(tmp_path: Path, photos: Path) -> None:
    (tmp_path / "list.txt").write_text("photos/1.png\n")
    (tmp_path / "table.csv").write_text("path,label\nphotos/1.png,a\n")
    (tmp_path / "mix.yaml").write_text("sources: [{source: photos, weight: 1}]\n")
    for split in ("train", "val"):
        (tmp_path / "both" / split / "a").mkdir(parents=True)
        (tmp_path / "both" / split / "a" / "0.png").touch()
    assert folder_of(str(photos)) == folder_of(f"{photos}/*.png") == str(photos)
    assert folder_of(str(tmp_path / "list.txt")) == folder_of(str(tmp_path / "table.csv")) == str(tmp_path)
    assert folder_of(str(tmp_path / "both")) == str(tmp_path / "both" / "train")
    assert folder_of(str(tmp_path / "both"), split="val") == str(tmp_path / "both" / "val")
    for other in (str(tmp_path / "mix.yaml"), "demo:emoji", "https://example.org/photos/"):
        assert folder_of(other) is None
    with pytest.raises(UserError, match="no folder"):
        folder_of(str(tmp_path / "nowhere"))
