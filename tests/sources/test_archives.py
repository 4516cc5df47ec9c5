"""Many images in few large files: tar shards, zips, Parquet and Hugging Face sets, indexed once and read at random."""

import io
import json
import os
import pickle
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, load_dataset
from datasets import Image as ImageFeature
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dinokit.core.messages import BadImage, UserError
from dinokit.images.intensity import Pixels
from dinokit.sources.archives import LARGEST, cached
from dinokit.sources.base import from_table
from dinokit.sources.containers import index_tar
from dinokit.sources.rows import fetch_row
from dinokit.sources.source import Source, open_source, splits
from dinokit.sources.table import Table, Texts
from dinokit.views import multicrop
from dinokit.views.loader import Loader


def _png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (3, 2), value).save(buffer, "PNG")
    return buffer.getvalue()


def _tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def _zip(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def _keys(source: Source) -> list[str]:
    return [source.key(index) for index in range(len(source))]


def _values(source: Source) -> list[int]:
    return [int(source.read(index)[0, 0, 0]) for index in range(len(source))]


def _names(source: Source) -> list[str]:
    assert source.labels is not None
    return [source.classes[label] if label >= 0 else "?" for label in source.labels.tolist()]


def _webdataset(folder: Path, shards: int = 2, prefix: str = "shard") -> Path:
    for shard in range(shards):
        members = {}
        for sample in range(shard * 3, shard * 3 + 3):
            members[f"{sample:06d}.cls"] = str(9 + sample % 2).encode()
            members[f"{sample:06d}.jpg"] = _png(sample)
            members[f"{sample:06d}.txt"] = b"a caption"
        _tar(folder / f"{prefix}-{shard:06d}.tar", members)
    return folder


def test_shards_in_all_spellings_are_the_same(tmp_path: Path) -> None:
    _webdataset(tmp_path)
    for spec in ("", "/shard-{000000..000001}.tar", "/*.tar", "/shard-00000{0,1}.tar"):
        source = open_source(f"{tmp_path}{spec}")
        assert _keys(source) == [f"shard-{number // 3:06d}.tar/{number:06d}.jpg" for number in range(6)]
        assert _values(source) == list(range(6))
        assert _names(source) == ["9", "10"] * 3
        assert source.classes == ("9", "10")
    assert _values(open_source(f"{tmp_path}/shard-000001.tar")) == [3, 4, 5]


@settings(max_examples=15, deadline=None)
@given(order=st.lists(st.integers(0, 5), max_size=20))
def test_shards_are_read_in_any_order(tmp_path_factory: pytest.TempPathFactory, order: list[int]) -> None:
    folder = _webdataset(tmp_path_factory.mktemp("shards"))
    source = pickle.loads(pickle.dumps(open_source(str(folder))))
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda index: int(source.read(index)[0, 0, 0]), order)) == order


def test_json_members_tell_class_and_domain(tmp_path: Path) -> None:
    note = {"class": "owl", "domain": "photo", "caption": "no"}
    members = {"d/1.jpg": _png(1), "d/1.json": json.dumps(note).encode(), "d/2.jpg": _png(2), "d/2.json": b"{oops"}
    source = open_source(str(_tar(tmp_path / "a.tar", members)))
    assert _names(source) == ["owl", "?"]
    assert source.domains is not None
    assert source.domains.tolist() == ["photo", ""]


def test_folders_inside_an_archive_are_classes_and_splits(tmp_path: Path) -> None:
    plain = {"./top/b/1.png": _png(1), "./top/a/2.png": _png(2), "./top/a/.hidden.png": b"", "./__MACOSX/a/2.png": b""}
    for source in (
        open_source(str(_tar(tmp_path / "a.tar", plain))),
        open_source(str(_zip(tmp_path / "a.zip", plain))),
    ):
        assert _names(source) == ["b", "a"]
        assert _values(source) == [1, 2]
    parts = {"x/train/a/1.png": _png(1), "x/val/b/2.png": _png(2), "x/train/b/3.png": _png(3)}
    for spec in (str(_tar(tmp_path / "s.tar", parts)), str(_zip(tmp_path / "s.zip", parts))):
        assert splits(spec) == ("train", "val")
        assert (_values(open_source(spec)), _names(open_source(spec))) == ([1, 3], ["a", "b"])
        assert (_values(open_source(spec, split="val")), _names(open_source(spec, split="val"))) == ([2], ["b"])


def test_shards_have_splits_by_folder_or_name(tmp_path: Path) -> None:
    for spec, first, second in (("folders", "train/shard", "validation/shard"), ("names", "set-train", "set-val")):
        _webdataset(tmp_path / spec, 2, first)
        _webdataset(tmp_path / spec, 1, second)
        assert splits(str(tmp_path / spec)) == ("train", "val")
        assert (len(open_source(str(tmp_path / spec))), len(open_source(str(tmp_path / spec), split="val"))) == (6, 3)


def test_a_folder_with_images_is_a_folder_whatever_else_lies_there(tmp_path: Path) -> None:
    _webdataset(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "one.png").write_bytes(_png(1))
    assert _keys(open_source(str(tmp_path))) == ["images/one.png"]


@settings(max_examples=40, deadline=None)
@given(at=st.integers(1, 20_480))
def test_a_shard_cut_anywhere_keeps_its_whole_images(tmp_path_factory: pytest.TempPathFactory, at: int) -> None:
    folder = tmp_path_factory.mktemp("cut")
    shard = _tar(folder / "a.tar", {f"{number}.png": _png(number) for number in range(5)})
    whole = index_tar(str(shard))
    ends = (whole.places[:, 0] + whole.places[:, 1]).tolist()
    os.truncate(shard, min(at, shard.stat().st_size - 1))
    (folder / "good.png").write_bytes(_png(200))
    kept = sum(end <= at for end in ends)
    if kept == 0:
        return
    source = open_source(str(shard))
    assert _values_until_bad(source) == list(range(kept))
    assert len(source) in (kept, kept + 1)
    if not any(start - 512 in (at, at - 1024) for start in whole.places[:, 0]) and kept < 5 and at % 512:
        assert len(source) == kept + 1  # the broken one is there to be reported


def _values_until_bad(source: Source) -> list[int]:
    try:
        return _values(source)
    except BadImage:
        with pytest.raises(BadImage, match="cut short"):
            source.read(len(source) - 1)
        return [int(source.read(index)[0, 0, 0]) for index in range(len(source) - 1)]


def test_a_damaged_tail_is_reported_by_the_loader(tmp_path: Path) -> None:
    shard = _tar(tmp_path / "a.tar", {f"{number}.png": _png(number) for number in range(4)})
    data = bytearray(shard.read_bytes())
    start = int(index_tar(str(shard)).places[2, 0]) - 512
    data[start : start + 512] = b"\xff" * 512
    shard.write_bytes(bytes(data))
    source = open_source(str(shard))
    assert _keys(source) == ["a.tar/0.png", "a.tar/1.png", "a.tar/(the rest)"]
    config = multicrop.Config(global_size=16, local_count=0)
    batch = Loader(source, config, None, Pixels(), patch_size=8, batch=6, seed=0).build(0)
    assert {record.key for record in batch.bad} == {"a.tar/(the rest)"}
    assert set(batch.indices.tolist()) <= {0, 1}


def test_a_size_that_no_memory_holds_is_a_bad_image(tmp_path: Path) -> None:
    header = tarfile.TarInfo("b.png")
    header.size = 1 << 40
    whole = _tar(tmp_path / "a.tar", {"a.png": _png(7)}).read_bytes()[:1024]
    (tmp_path / "a.tar").write_bytes(whole + header.tobuf() + b"x" * 1000)
    source = open_source(str(tmp_path / "a.tar"))
    assert int(source.read(0)[0, 0, 0]) == 7
    with pytest.raises(BadImage, match="is cut short: 1000 of 1099511627776 bytes are left"):
        source.read(1)


def test_one_broken_shard_does_not_hide_the_others(tmp_path: Path) -> None:
    _webdataset(tmp_path)
    (tmp_path / "shard-000002.tar").write_bytes(b"<html>error 500</html>")
    (tmp_path / "shard-000003.tar").write_bytes(b"")
    source = open_source(str(tmp_path))
    assert [key for key in _keys(source) if "rest" in key] == [f"shard-00000{n}.tar/(the rest)" for n in (2, 3)]
    assert _values(open_source(f"{tmp_path}/shard-{{000000..000001}}.tar")) == list(range(6))


def test_the_index_is_built_once_and_again_after_a_change(tmp_path: Path) -> None:
    shard = _tar(tmp_path / "a.tar", {"1.png": _png(1), "1.cls": b"x", "2.png": _png(2)})
    first = open_source(str(shard))
    entry = cached(str(shard), ".npz")
    written = entry.stat().st_mtime_ns
    again = open_source(str(shard))
    assert entry.stat().st_mtime_ns == written
    assert (_keys(again), _values(again), _names(again)) == (_keys(first), [1, 2], ["x", "?"])
    entry.write_bytes(b"damaged")
    assert _values(open_source(str(shard))) == [1, 2]
    _tar(shard, {"3.png": _png(3)})
    os.utime(shard, ns=(0, 0))
    assert _values(open_source(str(shard))) == [3]


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("DINOKIT_CACHE", str(tmp_path / "file"))
    assert _values(open_source(str(_tar(tmp_path / "a.tar", {"1.png": _png(1)})))) == [1]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_is_a_folder(tmp_path: Path, method: int) -> None:
    archive = _zip(tmp_path / "photos.zip", {f"a/ü{number}.png": _png(number) for number in range(3)}, method)
    source = pickle.loads(pickle.dumps(open_source(str(archive))))
    assert _keys(source) == [f"photos.zip/a/ü{number}.png" for number in range(3)]
    assert [int(source.read(index)[0, 0, 0]) for index in (2, 0, 1)] == [2, 0, 1]


def test_damage_in_a_zip_is_a_bad_image(tmp_path: Path) -> None:
    archive = _zip(tmp_path / "a.zip", {"0.png": bytes(5000), "1.png": _png(1)})
    odd = _zip(tmp_path / "b.zip", {"0.png": _png(0)}, zipfile.ZIP_BZIP2)
    data = bytearray(archive.read_bytes())
    data[35:45] = b"\xff" * 10
    archive.write_bytes(bytes(data))
    source = open_source(str(archive))
    assert int(source.read(1)[0, 0, 0]) == 1
    for broken, message in ((source, "damaged inside the archive"), (open_source(str(odd)), "packed or encrypted")):
        with pytest.raises(BadImage, match=message):
            broken.read(0)


def _parquet(path: Path, kind: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [_png(number) for number in range(3)]
    column = [{"bytes": data, "path": None} for data in images] if kind == "struct" else images
    table = pyarrow.table({"id": [1, 2, 3], "image": column, "label": [1, 0, 1]})
    about = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    table = table.replace_schema_metadata({"huggingface": json.dumps(about)})
    pyarrow.parquet.write_table(table, path, row_group_size=2)
    return path


@pytest.mark.parametrize("kind", ["struct", "bytes"])
def test_parquet_holds_images(tmp_path: Path, kind: str) -> None:
    spec = str(_parquet(tmp_path / "a.parquet", kind))
    for _ in range(2):
        source = pickle.loads(pickle.dumps(open_source(spec)))
        assert _keys(source) == [f"a.parquet/{row:06d}" for row in range(3)]
        assert (_values(source), _names(source)) == ([0, 1, 2], ["dog", "cat", "dog"])
    cached(spec, ".images").unlink()
    assert _values(open_source(spec)) == [0, 1, 2]


@pytest.mark.parametrize("about", ["{bad", "[1]", '{"info": {"features": {"label": {"names": null}}}}', "\udcff"])
def test_odd_metadata_of_a_parquet_says_nothing(tmp_path: Path, about: str) -> None:
    table = pyarrow.table({"image": [_png(3)], "label": [1]})
    metadata = {"huggingface": about.encode(errors="surrogateescape")}
    pyarrow.parquet.write_table(table.replace_schema_metadata(metadata), tmp_path / "a.parquet")
    source = open_source(str(tmp_path / "a.parquet"))
    assert (_values(source), source.classes) == ([3], ("1",))


def test_a_folder_of_parquet_has_splits(tmp_path: Path) -> None:
    for name in ("train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001"):
        _parquet(tmp_path / "data" / f"{name}.parquet", "struct")
    assert splits(str(tmp_path)) == ("train", "val")
    assert len(open_source(str(tmp_path))) == 6
    assert open_source(str(tmp_path), split="val").key(0) == "validation-00000-of-00001.parquet/000000"


def test_no_room_for_the_images_of_a_parquet_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("DINOKIT_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="cannot copy the images of .*set DINOKIT_CACHE"):
        open_source(str(_parquet(tmp_path / "a.parquet", "bytes")))


def _hub(folder: Path) -> DatasetDict:
    features = Features({"picture": ImageFeature(), "label": ClassLabel(names=["cat", "dog"])})
    files = {}
    for name, count in (("train", 3), ("test", 1)):
        images = [{"bytes": _png(number), "path": None} for number in range(count)]
        table = pyarrow.table({"picture": images, "label": [1, 0, 1][:count]})
        files[name] = str(folder / f"{name}.parquet")
        pyarrow.parquet.write_table(table, files[name])
    return load_dataset("parquet", data_files=files, features=features, cache_dir=str(folder / "cache"))


def test_hugging_face_sets_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "files").mkdir()
    monkeypatch.chdir(tmp_path)
    saved = _hub(tmp_path / "files")
    saved.save_to_disk(str(tmp_path / "saved"))
    saved["train"].save_to_disk(str(tmp_path / "one"))
    assert splits("hf:saved") == ("train", "test")
    train, test = open_source("hf:saved"), open_source(f"hf:{tmp_path}/saved", split="test")
    for source in (train, pickle.loads(pickle.dumps(train))):
        assert (_keys(source), _values(source)) == (["train/000000", "train/000001", "train/000002"], [0, 1, 2])
    assert (_keys(test), _values(test), _names(test)) == (["test/000000"], [0], ["dog"])
    assert train.classes == test.classes == ("cat", "dog")
    assert (splits("hf:one"), _values(open_source("hf:one", channels=1))) == ((), [0, 1, 2])


def test_a_path_that_cannot_be_in_a_hugging_face_set_is_a_bad_image() -> None:
    features = Features({"image": ImageFeature(decode=False)})
    images = [{"bytes": None, "path": "nul\0.png"}, {"bytes": _png(5), "path": None}]
    part = Dataset.from_dict({"image": images}, features=features)
    source = from_table("set", Table(keys=Texts("ab")), partial(fetch_row, [part]), split=None, channels=1)
    assert int(source.read(1)[0, 0, 0]) == 5
    with pytest.raises(BadImage, match="cannot open"):
        source.read(0)


def test_a_hugging_face_set_without_images_is_one_line(tmp_path: Path) -> None:
    saved = _hub(tmp_path)["train"].remove_columns("picture")
    saved.save_to_disk(str(tmp_path / "x"))
    with pytest.raises(UserError, match="has the columns label, none of images"):
        open_source(f"hf:{tmp_path / 'x'}")


def test_labels_stay_with_their_images_in_a_split(tmp_path: Path) -> None:
    rows = {"image": [_png(n) for n in range(4)], "label": list("abca"), "split": ["test", "train", "train", "test"]}
    pyarrow.parquet.write_table(pyarrow.table(rows), tmp_path / "a.parquet")
    test = open_source(str(tmp_path / "a.parquet"), split="test")
    assert (_values(test), _names(test)) == ([0, 3], ["a", "a"])
    assert test.classes == ("a", "b", "c")
    assert np.array_equal(test.labels if test.labels is not None else [], [0, 0])


def test_a_note_belongs_to_the_image_of_the_same_name(tmp_path: Path) -> None:
    members = {}
    for number in range(3):
        members |= {f"shoe.v{number}.PNG": _png(number), f"shoe.v{number}.CLS": str(number).encode()}
    source = open_source(str(_tar(tmp_path / "a.tar", members)))
    assert (_values(source), _names(source)) == ([0, 1, 2], ["0", "1", "2"])


def test_images_of_one_key_share_a_note(tmp_path: Path) -> None:
    members = {"7.left.jpg": _png(1), "7.right.jpg": _png(2), "7.cls": b"\xef\xbb\xbfcat\n", "8.jpg": _png(3)}
    members |= {"8.json": b'{"labels": 5.0, "class_id": 6}', "7.right.cls": b"dog"}
    assert _names(open_source(str(_tar(tmp_path / "a.tar", members)))) == ["cat", "dog", "5"]


def test_notes_that_differ_or_say_nothing_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    members = {"1.cls": b"cat", "1.json": b'{"label": "dog"}', "1.jpg": _png(1), "2.jpg": _png(2), "2.cls": b"\xff\xfe"}
    assert _names(open_source(str(_tar(tmp_path / "a.tar", members)))) == ["cat", "?"]
    said = capsys.readouterr().err
    assert "1 images of" in said
    assert "have notes that differ, such as 1.jpg: cat and dog" in said
    assert "1 notes in" in said
    assert "such as 2.cls" in said


def test_a_zip_of_windows_has_its_folders(tmp_path: Path) -> None:
    members = {f"d\\{split}\\{name}\\1.png": _png(3) for split in ("train", "valid") for name in ("a", "b")}
    spec = str(_zip(tmp_path / "a.zip", members))
    assert splits(spec) == ("train", "val")
    assert (_names(open_source(spec)), _keys(open_source(spec))[0]) == (["a", "b"], "a.zip/d/train/a/1.png")


def test_a_bomb_in_a_zip_is_a_bad_image(tmp_path: Path) -> None:
    source = open_source(str(_zip(tmp_path / "a.zip", {"bomb.png": bytes(LARGEST + 1), "b.png": _png(1)})))
    with pytest.raises(BadImage, match=r"bytes that unpack to 67,108,865: taken for a bomb"):
        source.read(0)
    assert int(source.read(1)[0, 0, 0]) == 1


def test_a_bomb_in_a_parquet_is_refused(tmp_path: Path) -> None:
    table = pyarrow.table({"image": [bytes(LARGEST + 1)]})
    pyarrow.parquet.write_table(
        table, tmp_path / "a.parquet", compression="zstd", use_dictionary=False, write_statistics=False
    )
    with pytest.raises(UserError, match="taken for a bomb"):
        open_source(str(tmp_path / "a.parquet"))


def test_parquet_holds_images_as_views(tmp_path: Path) -> None:
    images = pyarrow.array([_png(number) for number in range(3)], type=pyarrow.binary_view())
    pyarrow.parquet.write_table(pyarrow.table({"image": images}), tmp_path / "a.parquet")
    assert _values(open_source(str(tmp_path / "a.parquet"))) == [0, 1, 2]


def test_no_label_of_hugging_face_is_no_class(tmp_path: Path) -> None:
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=["cat", "dog"])})
    images = [{"bytes": _png(number), "path": None} for number in range(4)]
    rows = {"image": images, "label": [1, -1, 0, -1]}
    none = {"image": images, "label": [-1] * 4}
    saved = DatasetDict(
        {name: Dataset.from_dict(each, features=features) for name, each in (("train", rows), ("test", none))}
    )
    saved.save_to_disk(str(tmp_path / "saved"))
    saved["train"].to_parquet(str(tmp_path / "train.parquet"))
    for spec in (f"hf:{tmp_path / 'saved'}", str(tmp_path / "train.parquet")):
        assert (open_source(spec).classes, _names(open_source(spec))) == (("cat", "dog"), ["dog", "?", "cat", "?"])
    assert open_source(f"hf:{tmp_path / 'saved'}", split="test").labels is None


@pytest.mark.parametrize("inside", [0, 1])
def test_parquet_of_images_by_path_is_followed(tmp_path: Path, inside: int) -> None:
    images: list[dict[str, object]] = [{"bytes": _png(9), "path": None}] * inside
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(_png(number))
        images.append({"bytes": None, "path": f"{number}.png"})
    images.append({"bytes": None, "path": "gone.png"})
    pyarrow.parquet.write_table(
        pyarrow.table({"image": images, "label": list("aabbc")[: len(images)]}), tmp_path / "a.parquet"
    )
    source = open_source(str(tmp_path / "a.parquet"))
    assert [int(source.read(index)[0, 0, 0]) for index in range(3 + inside)] == [9] * inside + [0, 1, 2]
    assert len(source.classes) == 2 + inside
    with pytest.raises(BadImage, match="cannot open|cannot be read"):
        source.read(3 + inside)
