"""Any folder is a source; mistakes are one clear line."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dinokit.core.messages import BadImage, UserError
from dinokit.sources.source import absolute, in_memory, is_gray, open_source, same_source, splits


def _images(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (3, 2), number).save(path, "PNG")
    return root


def _keys(root: Path, **options: str) -> list[str]:
    source = open_source(str(root), **options)  # type: ignore[arg-type]
    return [source.key(index) for index in range(len(source))]


def test_nested_folders_are_read_sorted_without_hidden_files(tmp_path: Path) -> None:
    _images(tmp_path, "b.PNG", "a/deep/x.jpeg", "a/y.Tif", ".hidden.png", ".cache/z.png", "ü ñ.webp")
    (tmp_path / "notes.txt").write_text("not an image")
    assert _keys(tmp_path) == ["a/deep/x.jpeg", "a/y.Tif", "b.PNG", "ü ñ.webp"]
    source = open_source(str(tmp_path), channels=1)
    assert [int(source.read(index)[0, 0, 0]) for index in range(4)] == [1, 2, 0, 5]
    assert source.labels is None
    assert source.classes == ()


def test_links_are_followed_once(tmp_path: Path) -> None:
    root = _images(tmp_path / "root", "a/x.png", "b/y.png")
    _images(tmp_path / "elsewhere", "z.png")
    (root / "a" / "loop").symlink_to(root)
    (root / "link").symlink_to(tmp_path / "elsewhere")
    (root / "zz_again").symlink_to(tmp_path / "elsewhere")
    assert _keys(root) == ["a/x.png", "b/y.png", "link/z.png"]


def test_class_folders_give_labels(tmp_path: Path) -> None:
    source = open_source(str(_images(tmp_path, "dog/1.png", "cat/2.png", "cat/more/3.png")))
    assert source.classes == ("cat", "dog")
    assert source.labels is not None
    assert source.labels.dtype == np.int64
    assert source.labels.tolist() == [0, 0, 1]


@pytest.mark.parametrize("names", [("dog/1.png", "2.png"), ("only/1.png", "only/2.png")])
def test_no_labels_without_class_folders(tmp_path: Path, names: tuple[str, ...]) -> None:
    assert open_source(str(_images(tmp_path, *names))).labels is None


def test_splits_share_their_classes(tmp_path: Path) -> None:
    root = _images(tmp_path, "train/a/1.png", "train/c/2.png", "test/b/3.png", "test/c/4.png")
    assert splits(str(root)) == ("train", "test")
    assert _keys(root) == ["a/1.png", "c/2.png"]
    test = open_source(str(root), split="test")
    assert test.classes == ("a", "b", "c")
    assert test.labels is not None
    assert test.labels.tolist() == [1, 2]
    with pytest.raises(UserError, match=r"unknown split .* did you mean 'test'"):
        open_source(str(root), split="tset")


def test_a_colon_in_a_name_is_no_kind_of_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = _images(tmp_path / "walk:1", "photo1:30.png", "food101:2.png")
    (root / "list.txt").write_text("photo1:30.png\nfood101:2.png\n")
    monkeypatch.chdir(tmp_path)
    for spec in ("walk:1", "walk:1/list.txt"):
        source = open_source(spec, channels=1)
        assert sorted(int(source.read(index)[0, 0, 0]) for index in range(2)) == [0, 1]
    assert absolute("walk:1") == str(root)


def test_train_alone_is_no_split(tmp_path: Path) -> None:
    assert splits(str(_images(tmp_path, "train/1.png"))) == ()
    with pytest.raises(UserError, match="no splits"):
        open_source(str(tmp_path), split="train")


def test_mistakes_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.doc").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("x")
    for spec, pattern in {
        "missing": f"no folder missing .*{tmp_path}",
        "file.doc": "got the file file.doc",
        "empty": "no files at all.*jpg",
        "texts": "no images in texts; passed over: 1 .txt; read are .jpg",
        "demo:fashoin": "did you mean 'demo:fashion'",
    }.items():
        with pytest.raises(UserError, match=pattern) as caught:
            open_source(spec)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="1 or 3 channels"):
        open_source("demo:fashion", channels=5)


def test_unreadable_files_are_bad_images(tmp_path: Path) -> None:
    _images(tmp_path, "a.png", "b.png", "d.png")
    (tmp_path / "b.png").write_bytes(b"")
    (tmp_path / "c.png").symlink_to(tmp_path / "nowhere")
    source = open_source(str(tmp_path))
    (tmp_path / "d.png").unlink()
    for index, reason in ((1, "empty"), (2, "cannot open: No such file"), (3, "cannot open: No such file")):
        with pytest.raises(BadImage, match=reason):
            source.read(index)


def test_a_folder_source_survives_pickling(tmp_path: Path) -> None:
    source = pickle.loads(pickle.dumps(open_source(str(_images(tmp_path, "x/1.png", "y/2.png")))))
    assert [source.key(0), source.key(1), source.key(-1)] == ["x/1.png", "y/2.png", "y/2.png"]


def test_a_fingerprint_tells_other_images_and_another_order(tmp_path: Path) -> None:
    names = ("a/1.png", "a/2.png", "b/1.png")
    source = open_source(str(_images(tmp_path / "one", *names)))
    same = open_source(str(_images(tmp_path / "two", *names)))
    assert source.fingerprint == same.fingerprint  # wherever they lie
    renamed = open_source(str(_images(tmp_path / "three", "a/1.png", "a/3.png", "b/1.png")))
    (tmp_path / "one.txt").write_text("1.png\n1.png1.png")
    (tmp_path / "two.txt").write_text("1.png1.png\n1.png")  # the same letters
    lists = [open_source(str(tmp_path / name)) for name in ("one.txt", "two.txt")]
    parts = [source.subset(np.array(rows)) for rows in ([0, 1], [1, 0], [0, 1, 2])]
    arrays = [in_memory(torch.zeros(2, 1, 2, 2), keys=keys) for keys in (["a", "b"], ["ab", ""])]
    found = [each.fingerprint for each in (source, renamed, *lists, *parts, *arrays)]
    assert len(set(found)) == len(found)


def test_file_names_need_not_be_unicode(tmp_path: Path) -> None:
    Image.new("L", (1, 1)).save(tmp_path / "ok.png")
    os.rename(tmp_path / "ok.png", os.fsencode(tmp_path) + b"/\xff.png")
    assert open_source(str(tmp_path)).read(0).shape == (3, 1, 1)


def test_a_link_to_itself_is_passed_over(tmp_path: Path) -> None:
    root = _images(tmp_path, "train/a/1.png", "train/b/2.png", "test/a/3.png")
    for name in ("loop", "train/loop", "train/a/x.png"):
        (root / name).symlink_to(root / name)
    source = open_source(str(root))
    assert [source.key(index) for index in range(3)] == ["a/1.png", "a/x.png", "b/2.png"]
    assert source.classes == ("a", "b")
    with pytest.raises(BadImage, match="cannot open"):
        source.read(1)


def test_ways_to_write_one_folder_are_the_same_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    for other in ("./a/", str(tmp_path / "a"), "b/../a"):
        assert same_source("a", other)
    assert not same_source("a", "b")
    assert not same_source("demo:fashion", str(tmp_path / "demo:fashion"))


def test_no_name_is_not_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(_images(tmp_path, "a.png"))
    for ask in (open_source, splits):
        with pytest.raises(UserError, match="no images are given"):
            ask("")


def test_a_pipe_is_no_image(tmp_path: Path) -> None:
    """Opening one would wait for ever."""
    os.mkfifo(tmp_path / "pipe.jpg")
    Image.new("RGB", (4, 4)).save(tmp_path / "photo.png")
    source = open_source(str(tmp_path))
    assert [source.key(index) for index in range(len(source))] == ["photo.png"]


def test_gray_is_what_looks_gray(tmp_path: Path) -> None:
    for number in range(3):
        Image.new("RGB", (8, 8), (number, number, number)).save(tmp_path / f"{number}.png")
    (tmp_path / "broken.png").write_bytes(b"x")
    assert is_gray(open_source(str(tmp_path)))
    Image.new("RGB", (8, 8), (1, 1, 2)).save(tmp_path / "3.png")
    assert not is_gray(open_source(str(tmp_path)))
    assert is_gray(open_source("demo:fashion"))


def test_nothing_readable_is_not_gray(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"x")
    assert not is_gray(open_source(str(tmp_path)))
