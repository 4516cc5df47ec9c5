import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy
import pyarrow.parquet
import pytest

from dinokit.core.messages import UserError
from dinokit.curation import pool
from dinokit.curation.pool import Pool
from dinokit.curation.stored import begin, finish, write_part
from dinokit.sources.selection import write_selection
from dinokit.sources.source import Unusable, open_source

STAMP: dict[str, Any] = {
    "model": "runs/demo",
    "weights": "w",
    "feature": "cls",
    "dim": 4,
    "precision": "fp32",
    "pixels": {"mean": (0.5,), "white": None},
    "split": None,
    "part": 3,
}
FILES = tuple(f"{folder}/{number}.png" for folder in "ab" for number in range(4))
MakeFolder = Callable[..., Path]


@pytest.fixture
def folder(make_folder: MakeFolder, tmp_path: Path) -> Path:
    """A pool of eight images in parts of three; image 4 could not be read."""
    out, data = tmp_path / "out", make_folder(*FILES)
    source = open_source(str(data))
    out.mkdir()
    begin(out, STAMP | {"data": str(data)})
    for number, rows in enumerate(([0, 1, 2], [3, 5], [6, 7])):
        lines = {
            "row": rows,
            "key": [source.key(row) for row in rows],
            "source": [str(data)] * len(rows),
            "split": [None] * len(rows),
            "width": [16] * len(rows),
            "height": [16] * len(rows),
            "bytes_digest": [f"{row:032x}" for row in rows],
            "flags": [["gray"] if row == 5 else [] for row in rows],
            "class": [source.key(row)[0] for row in rows],
            "domain": [None] * len(rows),
        }
        unread = [Unusable(4, source.key(4), "empty file")] if number == 1 else []
        write_part(out, number, vectors(rows), lines, fingerprint=source.fingerprint, unread=unread)
    finish(out)
    return out


def vectors(rows: list[int]) -> numpy.ndarray:
    return (numpy.eye(4)[numpy.array(rows) % 4]).astype(numpy.float16)


def test_lines_and_vectors_stay_in_step(folder: Path) -> None:
    found = Pool(folder)
    assert len(found) == 7
    assert list(found.keys) == [FILES[row] for row in (0, 1, 2, 3, 5, 6, 7)]
    assert (found.vectors.read(0, 7) == vectors([0, 1, 2, 3, 5, 6, 7])).all()
    some = numpy.array([6, 0, 4, 0])
    assert found.table(["row"], rows=some)["row"].to_pylist() == [7, 0, 5, 0]
    assert found.table(["key"], rows=some[:0]).num_rows == 0
    assert json.loads((folder / "bad_images.jsonl").read_text()) == {
        "index": 4,
        "key": "b/0.png",
        "reason": "empty file",
    }
    assert (found.images().read(4) == open_source(found.source).read(5)).all()


def test_other_programs_read_the_tables_as_they_are(folder: Path) -> None:
    question = f"select class, count(*), sum(len(flags)) from '{folder}/part-*.parquet' group by class order by class"
    assert duckdb.sql(question).fetchall() == [("a", 4, 0), ("b", 3, 1)]


def test_what_does_not_fit_is_one_line(folder: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere holds no embeddings .*dinokit embed --out"):
        Pool(folder / "nowhere")
    whole = {path: path.read_bytes() for path in folder.iterdir()}

    def refused(message: str) -> None:
        with pytest.raises(UserError, match=message) as error:
            Pool(folder)
        assert "\n" not in str(error.value)
        for path, content in whole.items():
            path.write_bytes(content)

    array = folder / "part-00001.npy"
    numpy.save(array, vectors([3]))
    refused(r"part-00001\.parquet has 2 lines for 1 vectors; delete it and embed again")
    numpy.save(array, numpy.zeros((2, 5), dtype=numpy.float16))
    refused(r"part-00001\.npy has vectors of 5 numbers, the first part of 4")
    array.write_bytes(array.read_bytes()[:-3])
    refused(r"part-00001\.npy is no whole \.npy file")
    array.unlink()
    refused(r"cannot read .*part-00001\.npy: No such file")
    table = folder / "part-00002.parquet"
    table.write_bytes((folder / "part-00000.parquet").read_bytes())
    refused(r"part-00002\.parquet is a copy of part-00000\.parquet; take it out of the folder")
    lines = pyarrow.parquet.read_table(table)
    pyarrow.parquet.write_table(lines.slice(1), table)
    refused(r"part-00002\.parquet has 1 lines, 2 were embedded; delete it and embed again")
    pyarrow.parquet.write_table(lines.drop_columns(["width"]), table)
    refused(r"part-00002\.parquet has other columns than dinokit embed wrote")
    table.write_bytes(table.read_bytes()[:-9])
    refused(r"part-00002\.parquet is no whole Parquet file: .*; delete it and embed again")
    table.unlink()
    refused("lines for 5 of 7 images; the same dinokit embed goes on")
    stamp = json.loads((folder / "embed.json").read_text())
    (folder / "embed.json").write_text(json.dumps(stamp | {"dim": 5}))
    refused("vectors of 4 numbers, embed.json says 5")
    del stamp["images"]
    (folder / "embed.json").write_text(json.dumps(stamp))
    refused("is not finished; the same dinokit embed again goes on with it")


def test_vectors_of_another_part_are_told_by_their_digest(folder: Path) -> None:
    Pool(folder).check()
    whole = (folder / "part-00001.npy").read_bytes()
    numpy.save(folder / "part-00001.npy", vectors([3, 2]))
    with pytest.raises(UserError, match=r"part-00001\.npy holds other vectors than those that were embedded"):
        Pool(folder).check()
    (folder / "part-00001.npy").write_bytes(whole)
    last = numpy.load(folder / "part-00002.npy")
    last[1, 0] = numpy.nan
    numpy.save(folder / "part-00002.npy", last)
    with pytest.raises(UserError, match="row 6 of the embeddings holds numbers that are not finite"):
        Pool(folder).check()


def test_a_pool_belongs_to_its_stamp(folder: Path, tmp_path: Path) -> None:
    data = Pool(folder).source
    with pytest.raises(UserError, match="was made with other weights and feature .*; delete it"):
        begin(folder, STAMP | {"data": data, "weights": "v", "feature": "cls+patches"})
    Pool(folder)
    begin(folder, STAMP | {"data": data, "model": "elsewhere"})
    with pytest.raises(UserError, match="not finished"):
        Pool(folder)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(UserError, match=r"holds other files such as thesis\.txt"):
        begin(tmp_path / "mine", STAMP | {"data": data})


def test_the_digest_tells_pools_apart(folder: Path) -> None:
    before, table = Pool(folder).digest, folder / "part-00002"
    lines = Pool(folder).table(rows=numpy.array([5, 6])).to_pydict()
    write_part(folder, 2, vectors([7, 6]), lines, fingerprint=Pool(folder).fingerprint)
    assert table.with_suffix(".npy").exists()
    assert Pool(folder).digest != before


def test_images_are_found_by_key_once_the_source_has_changed(folder: Path) -> None:
    data = Path(Pool(folder).source)
    (data / "a" / "00.png").write_bytes((data / "a" / "1.png").read_bytes())
    found = Pool(folder)
    assert [found.images().key(row) for row in range(7)] == list(found.keys)
    (data / "b" / "3.png").unlink()
    with pytest.raises(UserError, match=r"images shrank: 1 of the 7 images of .*out are gone, such as b/3\.png"):
        found.images()


def test_keys_that_are_no_unicode_stay_whole(folder: Path) -> None:
    lines = Pool(folder).table(rows=numpy.array([0])).to_pydict() | {"key": ["\udcff.png"]}
    write_part(folder, 3, vectors([0]), lines, fingerprint="")
    begin(folder, json.loads((folder / "embed.json").read_text()))
    finish(folder)
    assert Pool(folder).keys[7] == "\\udcff.png"


def test_rows_of_a_pool_become_a_selection(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, chosen = Pool(folder), tmp_path / "chosen.parquet"
    rows = numpy.array([5, 0, 5])
    levels = numpy.array([1, 2, 3])
    monkeypatch.setattr(pool, "LINES", 2)
    some = found.selection(
        rows, component="web", reason="a seed's neighbour", weight=2.0, columns=lambda part: {"level": levels[part]}
    )
    other = found.selection(
        rows[:1], component="seeds", reason="itself", homogeneous=0.1, columns=lambda part: {"level": levels[:1][part]}
    )
    assert write_selection(chosen, [*some, *other], fingerprints=found.fingerprints) == 4
    images = open_source(str(chosen))
    assert images.mix is not None
    assert (images.mix.lengths, images.mix.weights, images.mix.alone) == ((3, 1), (2.0, 1.0), (0.0, 0.1))
    assert [images.key(row).rpartition("images/")[2] for row in range(4)] == [
        "b/2.png",
        "a/0.png",
        "b/2.png",
        "b/2.png",
    ]
    asked = f"select reason, level from '{chosen}' where component = 'seeds'"
    assert duckdb.sql(asked).fetchall() == [("itself", 1)]
    asked = f"select level from '{chosen}' where component = 'web'"
    assert duckdb.sql(asked).fetchall() == [(1,), (2,), (3,)]
