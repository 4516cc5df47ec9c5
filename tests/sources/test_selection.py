"""A selection gives the images it names, in whatever they are stored, and mixes them as it says."""

import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pyarrow
import pyarrow.parquet
import pytest
import torch

from dinokit.core.messages import UserError
from dinokit.sources.selection import texts, write_selection
from dinokit.sources.source import Source, open_source, splits

MakeFolder = Callable[..., Path]
FILES = tuple(f"{folder}/{number}.png" for folder in "ab" for number in range(3))


def lines(spec: str, rows: list[int], *, split: str | None = None, **shares: Any) -> pyarrow.Table:
    """The lines of a selection, and beside them where it comes from, as a step of curation writes it."""
    source, count = open_source(spec, split=split), len(rows)
    same = {"component": "all", "weight": 1.0, "homogeneous": 0.0, "reason": "because"} | shares
    columns = {"source": [spec] * count, "split": pyarrow.array([split] * count, "string"), "row": rows}
    columns |= {"key": [source.key(row) for row in rows], "cluster": list(range(count))}
    return pyarrow.table(columns | {name: [value] * count for name, value in same.items()})


def prints(*specs: str, split: str | None = None) -> dict[tuple[str, str | None], str]:
    return {(spec, split): open_source(spec, split=split).fingerprint for spec in specs}


def keys(source: Source) -> list[str]:
    return [source.key(index) for index in range(len(source))]


@pytest.fixture
def folder(make_folder: MakeFolder) -> Path:
    """Six images in two classes."""
    return make_folder(*FILES)


@pytest.mark.parametrize("kind", ["folder", "tar", "zip", "parquet", "list"])
def test_images_of_any_kind_come_in_the_order_of_the_rows(folder: Path, tmp_path: Path, kind: str) -> None:
    spec = str(stored(folder, tmp_path, kind))
    chosen, whole = tmp_path / "chosen.parquet", open_source(spec)
    rows = [4, 0, 4, 5]  # one twice
    assert write_selection(chosen, [lines(spec, rows)], fingerprints=prints(spec)) == 4
    found = open_source(str(chosen))
    assert keys(found) == [whole.key(row) for row in rows]
    for place, row in enumerate(rows):
        assert torch.equal(found.read(place), whole.read(row))
    assert found.mix is None
    assert found.name == str(chosen)
    if whole.labels is not None:
        assert found.labels is not None
        assert found.labels.tolist() == whole.labels[rows].tolist()
    assert splits(str(chosen)) == ()
    with pytest.raises(UserError, match="has no splits, got split 'test'"):
        open_source(str(chosen), split="test")


def stored(folder: Path, tmp_path: Path, kind: str) -> Path:
    place = tmp_path / f"images.{kind}"
    match kind:
        case "tar":
            with tarfile.open(place, "w") as archive:
                archive.add(folder, arcname=".")
        case "zip":
            with zipfile.ZipFile(place, "w") as archive:
                for name in FILES:
                    archive.write(folder / name, name)
        case "parquet":
            table = pyarrow.table({"image": [(folder / name).read_bytes() for name in FILES]})
            pyarrow.parquet.write_table(table, place)
        case "list":
            place = tmp_path / "images.txt"
            place.write_text("".join(f"{folder / name}\n" for name in FILES))
        case _:
            return folder
    return place


def test_components_are_mixed_by_their_shares_and_keep_their_images(folder: Path, tmp_path: Path) -> None:
    demo, spec, chosen = "demo:fashion", str(folder), tmp_path / "chosen.parquet"
    both = [
        lines(spec, [5, 1], component="seeds", weight=3.0, homogeneous=0.1),
        lines(demo, [7, 3, 7], split="test", component="web"),
        lines(spec, [0], component="web"),
    ]
    write_selection(chosen, both, fingerprints=prints(spec) | prints(demo, split="test"))
    found = open_source(str(chosen))
    assert found.mix is not None
    assert (found.mix.lengths, found.mix.weights, found.mix.alone) == ((2, 4), (3.0, 1.0), (0.1, 0.0))
    fashion, photos = open_source(demo, split="test"), open_source(spec)
    expected = [photos.read(5), photos.read(1), *(fashion.read(row) for row in (7, 3, 7)), photos.read(0)]
    for place, image in enumerate(expected):
        assert torch.equal(found.read(place), image)
    assert found.labels is not None
    assert [found.classes[label] for label in found.labels[[0, 2]].tolist()] == [
        "b",
        fashion.classes[int(fashion.labels[7])] if fashion.labels is not None else "",
    ]
    (tmp_path / "mix.yaml").write_text("sources:\n - {source: chosen.parquet, weight: 1}\n")
    with pytest.raises(UserError, match=r"mixes .*chosen\.parquet, which is a mixture itself"):
        open_source(str(tmp_path / "mix.yaml"))


def test_a_source_that_changed_is_searched_by_key(folder: Path, tmp_path: Path) -> None:
    spec, chosen = str(folder), tmp_path / "chosen.parquet"
    write_selection(chosen, [lines(spec, [3, 1, 3])], fingerprints=prints(spec))
    (folder / "a" / "00.png").write_bytes((folder / "a" / "0.png").read_bytes())
    assert keys(open_source(str(chosen))) == ["b/0.png", "a/1.png", "b/0.png"]
    (folder / "b" / "0.png").unlink()
    expected = r"images shrank: 2 of the 3 images of .*chosen\.parquet are gone, such as b/0\.png; put them back"
    with pytest.raises(UserError, match=expected):
        open_source(str(chosen))


def test_what_is_no_selection_is_one_line(folder: Path, tmp_path: Path) -> None:
    spec, chosen = str(folder), tmp_path / "chosen.parquet"
    good = lines(spec, [0, 1])

    def refused(table: pyarrow.Table, message: str) -> None:
        write_selection(chosen, [table], fingerprints=prints(spec))
        with pytest.raises(UserError, match=message):
            open_source(str(chosen))

    refused(good.slice(0, 0), "selects no image")
    refused(pyarrow.concat_tables([good, lines(spec, [2], weight=2.0)]), "rows of all in .* have no common weight")
    refused(good.set_column(good.column_names.index("row"), "row", [[0, 6]]), "asks for image 6 of .*, which has 6")
    with pytest.raises(UserError, match="nothing is selected"):
        write_selection(tmp_path / "none.parquet", [], fingerprints={})
    with pytest.raises(UserError, match=r"cannot write /proc/chosen\.parquet"):
        write_selection(Path("/proc/chosen.parquet"), [good], fingerprints={})
    table = pyarrow.parquet.read_table(chosen)
    pyarrow.parquet.write_table(table.drop_columns(["weight"]), chosen)
    with pytest.raises(UserError, match="is a selection without the column weight"):
        open_source(str(chosen))


def _written(table: pyarrow.Table, path: Path) -> str:
    """What another program leaves of a selection: the columns without the fingerprints."""
    pyarrow.parquet.write_table(table.replace_schema_metadata(None), path)
    return str(path)


def test_a_selection_that_another_program_wrote_again_is_one(folder: Path, tmp_path: Path) -> None:
    table = lines(str(folder), [4, 0, 5])
    kinds = {"row": "double", "weight": "string", "homogeneous": "int32", "key": "large_string"}
    for name, kind in kinds.items():
        table = table.set_column(table.column_names.index(name), name, table[name].cast(kind))
    table = table.select(table.column_names[::-1])
    assert keys(open_source(_written(table, tmp_path / "again.parquet"))) == ["b/1.png", "a/0.png", "b/2.png"]


@pytest.mark.parametrize(
    ("column", "values", "said"),
    [
        ("row", [0, None], "the column row is empty in 1 rows"),
        ("row", ["0", "second"], "the column row holds string: Failed to parse"),
        ("row", [0.0, 1.5], "the column row holds double: .*truncated"),
        ("weight", [-1.0, -1.0], "no common weight and homogeneous from 0 on"),
        ("weight", [1.0, float("nan")], "no common weight"),
        ("source", [None, None], "rows without a source"),
    ],
)
def test_columns_that_another_program_broke_are_one_line(
    column: str, values: list[Any], said: str, folder: Path, tmp_path: Path
) -> None:
    table = lines(str(folder), [0, 1])
    table = table.set_column(table.column_names.index(column), column, [values])
    with pytest.raises(UserError, match=said):
        open_source(_written(table, tmp_path / "broken.parquet"))


def test_a_selection_of_itself_is_neither_written_nor_read(folder: Path, tmp_path: Path) -> None:
    one, other = tmp_path / "one.parquet", tmp_path / "other.parquet"
    write_selection(one, [lines(str(folder), [0, 1])], fingerprints=prints(str(folder)))
    write_selection(other, [lines(str(one), [1])], fingerprints=prints(str(one)))
    with pytest.raises(UserError, match=r"one\.parquet selects from itself, by way of .*one\.parquet"):
        write_selection(one, [lines(str(other), [0])], fingerprints=prints(str(other)))
    assert keys(open_source(str(other))) == ["a/1.png"]
    other.replace(one)
    with pytest.raises(UserError, match="selects from itself"):
        open_source(str(one))


def test_a_selection_is_written_over_nothing_else(folder: Path, tmp_path: Path) -> None:
    path, table = tmp_path / "mine.parquet", lines(str(folder), [0])
    _written(table.drop_columns(["reason"]), path)
    with pytest.raises(UserError, match="holds something else than a selection"):
        write_selection(path, [table], fingerprints=prints(str(folder)))


def test_texts_of_a_column_come_whole_from_several_chunks_and_a_slice() -> None:
    words = ["a", "", "bc\N{SNOWMAN}", "d"]
    chunked = pyarrow.chunked_array([words[:1], [], words[1:]]).slice(1)
    assert list(texts(chunked)) == words[1:]
    assert len(texts(pyarrow.chunked_array([], "string"))) == 0
    assert list(texts(chunked.take(numpy.array([2, 0])))) == ["d", ""]
