"""Images that are files of their own: patterns, lists and manifests."""

import csv
import json
import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from dinokit.core.messages import BadImage, UserError
from dinokit.sources.source import Source, absolute, open_source, remarks, same_source, splits

Write = Callable[[Path, list[dict[str, object]]], None]


def _images(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (3, 2), number).save(path, "PNG")
    return root


def _keys(source: Source) -> list[str]:
    return [source.key(index) for index in range(len(source))]


def _values(source: Source) -> list[int]:
    return [int(source.read(index)[0, 0, 0]) for index in range(len(source))]


def _csv(path: Path, rows: list[dict[str, object]], separator: str = ",") -> None:
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=separator)
        writer.writeheader()
        writer.writerows(rows)


def _excel(path: Path, rows: list[dict[str, object]]) -> None:
    _csv(path, rows, separator=";")


def _jsonl(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")


def _parquet(path: Path, rows: list[dict[str, object]]) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def test_a_pattern_takes_the_images_that_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _images(tmp_path / "p", "a/1.png", "a/deep/2.png", "b/3.png", "b/4.jpg", "5.png")
    (tmp_path / "p" / "b" / "notes.txt").write_text("x")
    assert _keys(open_source(f"{tmp_path}/p/**/*.png")) == ["5.png", "a/1.png", "a/deep/2.png", "b/3.png"]
    source = open_source(f"{tmp_path}/p/{{b,a}}/*")
    assert _keys(source) == ["b/3.png", "b/4.jpg", "a/1.png"]
    assert _values(source) == [2, 3, 0]
    assert source.labels is not None
    assert [source.classes[label] for label in source.labels] == ["b", "b", "a"]
    monkeypatch.chdir(tmp_path)
    assert _keys(open_source("p/a/[0-9].png")) == ["1.png"]
    assert _keys(open_source("*/*.png")) == ["p/5.png"]


def test_a_path_that_exists_is_no_pattern(tmp_path: Path) -> None:
    _images(tmp_path / "holidays [2020]", "1.png")
    assert _keys(open_source(str(tmp_path / "holidays [2020]"))) == ["1.png"]


def test_a_list_is_relative_to_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _images(tmp_path / "data", "a.png", "sub/no_extension")
    _images(tmp_path / "other", "c.png")
    (tmp_path / "data" / "list.txt").write_bytes(
        b"sub/no_extension\r\n\n  a.png  \n" + os.fsencode(tmp_path / "other" / "c.png") + b"\nmissing-\xff.png"
    )
    monkeypatch.chdir("/")
    source = open_source(str(tmp_path / "data" / "list.txt"))
    assert [int(source.read(index)[0, 0, 0]) for index in range(3)] == [1, 0, 0]
    assert source.key(0) == "sub/no_extension"
    with pytest.raises(BadImage, match="cannot open: No such file"):
        source.read(3)


@pytest.mark.parametrize(("name", "header"), [("a.txt", ""), ("a.csv", "path\n"), ("a.jsonl", "")])
def test_texts_of_other_programs_are_read_or_named(tmp_path: Path, name: str, header: str) -> None:
    _images(tmp_path, "a.png", "b.png")
    wrap = '{{"path": "{}"}}'.format if name.endswith(".jsonl") else str
    text = header + "".join(f"{wrap(image)}\n" for image in ("a.png", "b.png"))
    for written in (text.encode("utf-8-sig"), text.replace("\n", "\r\n").encode(), text.replace("\n", "\r").encode()):
        (tmp_path / name).write_bytes(written)
        source = open_source(str(tmp_path / name))
        assert [source.key(index) for index in range(len(source))] == ["a.png", "b.png"]
    (tmp_path / name).write_bytes(text.encode("utf-16-le"))
    with pytest.raises(UserError, match="is a text of UTF-16; save it as UTF-8"):
        open_source(str(tmp_path / name))
    for encoding in ("utf-16", "utf-16-be"):
        (tmp_path / name).write_bytes(
            ("\ufeff" if encoding == "utf-16-be" else "").encode(encoding) + text.encode(encoding)
        )
        with pytest.raises(UserError, match="is a text of UTF-16; save it as UTF-8"):
            open_source(str(tmp_path / name))


def test_half_a_letter_is_one_bad_image(tmp_path: Path) -> None:
    _images(tmp_path, "a.png")
    (tmp_path / "a.jsonl").write_text('{"path": "\\ud83d.png"}\n{"path": "a.png"}\n')
    source = open_source(str(tmp_path / "a.jsonl"))
    assert int(source.read(1)[0, 0, 0]) == 0
    with pytest.raises(BadImage, match="cannot open: No such file"):
        source.read(0)


@pytest.mark.parametrize("name", ["a.tar", "a.zip", "a.csv", "a.txt", "a.parquet"])
def test_a_pipe_is_no_file(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match=f"cannot open .*{name}: not a file"):
        open_source(str(tmp_path / name))


def test_a_listed_pipe_or_folder_is_a_bad_image(tmp_path: Path) -> None:
    """Opening a pipe would wait for ever."""
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "list.txt").write_text("pipe.jpg\n.\n")
    source = open_source(str(tmp_path / "list.txt"))
    for index in (0, 1):
        with pytest.raises(BadImage, match="cannot open"):
            source.read(index)


@pytest.mark.parametrize(
    ("name", "write"),
    [("m.csv", _csv), ("m.tsv", _csv), ("m.csv", _excel), ("m.jsonl", _jsonl), ("m.parquet", _parquet)],
)
def test_manifests_of_every_kind_say_the_same(tmp_path: Path, name: str, write: Write) -> None:
    _images(tmp_path, "x/a.png", "x/b, c.png", "d.png", "e.png")
    rows: list[dict[str, object]] = [
        {"id": 7, "Path": "d.png", "label": "zebra", "split": "validation", "domain": "photo"},
        {"id": 8, "Path": "x/b, c.png", "label": "ape", "split": "train", "domain": "drawing"},
        {"id": 9, "Path": "x/a.png", "label": "cat", "split": "train", "domain": "photo"},
        {"id": 9, "Path": "e.png", "label": None, "split": "train", "domain": None},
    ]
    write(tmp_path / name, rows)
    spec = str(tmp_path / name)
    assert splits(spec) == ("train", "val")
    train, val = open_source(spec), open_source(spec, split="val")
    assert (_keys(train), _keys(val)) == (["x/b, c.png", "x/a.png", "e.png"], ["d.png"])
    assert (_values(train), _values(val)) == ([1, 0, 3], [2])
    assert train.classes == val.classes == ("ape", "cat", "zebra")
    assert train.labels is not None
    assert val.labels is not None
    assert (train.labels.tolist(), val.labels.tolist()) == ([0, 1, -1], [2])
    assert train.labels.dtype == np.int64
    assert train.domains is not None
    assert train.domains.tolist() == ["drawing", "photo", ""]


def test_numbers_are_classes_in_their_order(tmp_path: Path) -> None:
    _jsonl(tmp_path / "m.jsonl", [{"file": "a", "label": 10}, {"file": "b", "label": 9}, {"file": "c", "label": 0}])
    source = open_source(str(tmp_path / "m.jsonl"))
    assert source.classes == ("0", "9", "10")
    assert source.labels is not None
    assert source.labels.tolist() == [2, 1, 0]


def test_a_column_split_without_train_is_no_split(tmp_path: Path) -> None:
    _csv(tmp_path / "m.csv", [{"path": "a", "split": "x"}, {"path": "b", "split": "y"}])
    assert splits(str(tmp_path / "m.csv")) == ()
    assert len(open_source(str(tmp_path / "m.csv"))) == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "name,label\nx,y\n", "has the columns name, label, none of paths; name one of them path"),
        ("a.csv", "", "is empty"),
        ("a.csv", "path\n", "has no rows"),
        ("a.csv", "path,label\na.png\n", "line 2 of .*a.csv has 1 fields, the header has 2"),
        ("a.csv", "path,label\na.png,x\n,y\n", "row 2 of .*a.csv has no path"),
        ("a.csv", "path,split\na.png,train\nb.png,test\nc.png,\n", "c.png of .* has no split"),
        ("a.jsonl", "", "is empty"),
        ("a.jsonl", '{"path": "a"}\n{oops\n', "line 2 of .*a.jsonl is no JSON"),
        ("a.jsonl", '{"path": "a"} {"path": "b"}\n', "line 1 of .*a.jsonl is no JSON: more follows"),
        ("a.jsonl", "[" * 100_000, "line 1 of .*a.jsonl is no JSON"),
        ("a.jsonl", "[1]\n", "line 1 of .* is list, expected an object"),
        ("a.jsonl", '{"label": 1}\n', "has the columns label, none of paths"),
        ("a.jsonl", '{"path": "a"}\n{"label": 1}\n', "row 2 of .* has no path"),
        ("a.parquet", "x", "is no whole Parquet file"),
        ("a.txt", "\n\n", "is empty"),
        ("a.docx", "x", "expected images, got the file .*a.docx; give a folder"),
        ("a.tar.gz", "x", "packed as a whole.*unpack it"),
        ("a.tar", "x", "no images in .*a.tar: 1 tar files looked at, 1 of them damaged or no tar"),
        ("a.zip", "x", "a.zip is no whole zip file"),
        ("a.yaml", "{}", "has no list of sources"),
    ],
)
def test_mistakes_in_files_are_one_line(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        open_source(str(tmp_path / name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nothing.csv", "no folder nothing.csv"),
        ("nothing/*.png", "no images in the pattern nothing/"),
        ("x-{003..000}.tar", "expected a range like"),
        ("x-{0..99999999999}.tar", "stands for more than 1,000,000 files"),
        ("x-{000..001}.tar", "cannot open x-000.tar: No such file"),
        ("ftps3://bucket/x", "cannot use ftps3://"),
        ("ftp://host/x", "cannot use ftp://"),
        ("a" * 5000, "no folder aaa"),
        ("hf:./nothing", "no folder ./nothing"),
        ("nothing.yaml", "cannot open nothing.yaml: No such file"),
    ],
)
def test_what_is_not_there_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        open_source(spec)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "package", "extra"),
    [("s3://b/x.csv", "fsspec", "remote"), ("a.parquet", "pyarrow", "parquet"), ("hf:owner/name", "datasets", "hf")],
)
def test_a_missing_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, package: str, extra: str
) -> None:
    (tmp_path / "a.parquet").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)  # what Python does with a package that is not there
    with pytest.raises(UserError, match=rf"pip install 'dinokit\[{extra}\]'") as caught:
        open_source(spec)
    assert "\n" not in str(caught.value)


def test_absolute_means_the_same_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _images(tmp_path / "a", "1.png", "2.png")
    monkeypatch.chdir(tmp_path)
    for spec in ("a", "a/*.png", "a/{1,2}.png"):
        monkeypatch.chdir(tmp_path)
        place = absolute(spec)
        assert same_source(spec, place)
        monkeypatch.chdir("/")
        assert _keys(open_source(place)) == ["1.png", "2.png"]
    for spec in ("demo:fashion", "s3://bucket/x", "hf:owner/name"):
        assert absolute(spec) == spec
        assert same_source(spec, spec)
        assert not same_source(spec, spec + "y")


def test_cells_that_mean_the_same_are_one_class(tmp_path: Path) -> None:
    rows = "path,label\na,cat\nb,cat \nc,0\nd,0.0\ne,nan\nf,NaN\ng,\nh,none\n"
    (tmp_path / "m.csv").write_text(rows)
    source = open_source(str(tmp_path / "m.csv"))
    assert source.classes == ("0", "cat", "none")
    assert source.labels is not None
    assert source.labels.tolist() == [1, 1, 0, 0, -1, -1, -1, 2]
    assert remarks(source) == ["3 classes: 0, cat, none; 3 images have none"]


@pytest.mark.parametrize("name", ["labels", "Target", "class_id", "category_id", "label "])
def test_columns_of_labels_have_many_names(tmp_path: Path, name: str) -> None:
    (tmp_path / "m.csv").write_text(f"path,{name},caption\na,x,c\nb,y,d\n")
    source = open_source(str(tmp_path / "m.csv"))
    assert source.classes == ("x", "y")
    assert source.remarks == (f"columns read: path, {name.strip()}; passed over: caption",)


@pytest.mark.parametrize("between", [" ", "\t", ", ", ";"])
def test_a_list_may_say_the_label_after_the_path(tmp_path: Path, between: str) -> None:
    _images(tmp_path, "a b.png", "c.JPG")
    (tmp_path / "l.txt").write_text(f"a b.png{between}7\nc.JPG{between}11\n")
    source = open_source(str(tmp_path / "l.txt"))
    assert (_keys(source), source.classes, _values(source)) == (["a b.png", "c.JPG"], ("7", "11"), [0, 1])


@pytest.mark.parametrize("text", ["a.png 0\nb.png\n", "a.png\nb.png 0\n", "a.png\nb.png 3 4\n"])
def test_a_list_with_some_labels_names_the_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "l.txt").write_text(text)
    with pytest.raises(UserError, match=r"line 2 of .*l.txt is 'b.png.*'; expected in every line a path"):
        open_source(str(tmp_path / "l.txt"))


@pytest.mark.parametrize("name", ["m.csv", "m.txt"])
def test_paths_as_windows_and_spreadsheets_write_them(tmp_path: Path, name: str) -> None:
    _images(tmp_path, "sub/a.png", "b.png", "c\\d.png")
    (tmp_path / name).write_text(
        ("path\n" if name.endswith("csv") else "") + "sub\\a.png\nb.png \n\ufeffb.png\nc\\d.png\n"
    )
    source = open_source(str(tmp_path / name))
    assert (_keys(source), _values(source)) == (["sub/a.png", "b.png", "b.png", "c\\d.png"], [0, 1, 1, 2])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\na," + "x" * 200_000, "line 2 of .* is no CSV"),
        ("path," + "x" * 200_000 + "\na,b\n", "line 1 of .* is no CSV"),
        ("path,label\na,M\udcfcll\n", "is no text of UTF-8, see 'M.*ll'; save it as UTF-8"),
    ],
)
def test_odd_tables_are_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "m.csv").write_text(text, errors="surrogateescape")
    with pytest.raises(UserError, match=message) as caught:
        open_source(str(tmp_path / "m.csv"))
    assert "\n" not in str(caught.value)


def test_jpegs_of_all_endings_are_read_and_the_rest_is_counted(tmp_path: Path) -> None:
    root = _images(tmp_path / "d", "a.jfif", "b.JPE", "c.png", "d.heic", "e.heic", "f")
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        for path in sorted(root.iterdir()):
            archive.write(path, path.name)
    for spec in (str(root), str(tmp_path / "d.zip"), f"{root}/*"):
        source = open_source(spec)
        assert len(source) == 3
        assert source.remarks == ("passed over: 2 .heic, 1 without an ending",)


def test_what_the_system_hides_is_not_said_to_be_missing(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for spec in (tmp_path / "loop", tmp_path / "loop" / "images", tmp_path / "loop" / "m.csv"):
        with pytest.raises(UserError, match="cannot open .*loop.*: Too many levels of symbolic links"):
            open_source(str(spec))


def test_folders_that_all_images_share_are_no_class(tmp_path: Path) -> None:
    _images(tmp_path / "d", "set/train/a/1.png", "set/train/b/2.png", "set/valid/a/3.png", "set/valid/b/4.png")
    _images(tmp_path / "e", "photos/a/1.png", "photos/b/2.png")
    assert splits(str(tmp_path / "d")) == ("train", "val")
    for spec in (tmp_path / "d", tmp_path / "e"):
        source = open_source(str(spec))
        assert (len(source), source.classes) == (2, ("a", "b"))
    assert _keys(open_source(str(tmp_path / "e"))) == ["photos/a/1.png", "photos/b/2.png"]


@pytest.mark.parametrize("name", ["m.csv", "m.txt"])
def test_a_table_in_latin_1_is_one_line(tmp_path: Path, name: str) -> None:
    _images(tmp_path, "Müll.png")
    (tmp_path / name).write_bytes(("path\n" if name == "m.csv" else "").encode() + "Müll.png\n".encode("latin-1"))
    with pytest.raises(UserError, match="Müll.png is named in Latin-1, .* save it as UTF-8"):
        open_source(str(tmp_path / name))


@pytest.mark.parametrize(("name", "write"), [("a.csv", _csv), ("a.jsonl", _jsonl), ("a.parquet", _parquet)])
def test_minus_one_is_no_label(tmp_path: Path, name: str, write: Write) -> None:
    _images(tmp_path, "0.png", "1.png", "2.png")
    write(tmp_path / name, [{"path": f"{row}.png", "label": label} for row, label in enumerate((-1, 10, 9))])
    source = open_source(str(tmp_path / name))
    assert source.labels is not None
    assert (source.classes, source.labels.tolist()) == (("9", "10"), [-1, 1, 0])
    write(tmp_path / name, [{"path": f"{row}.png", "label": -1} for row in range(3)])
    source = open_source(str(tmp_path / name))
    assert (source.classes, source.labels) == ((), None)
