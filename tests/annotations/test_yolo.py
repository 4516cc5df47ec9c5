"""Labels of YOLO: every way to lay a set out gives the same boxes, and what is odd is said with its file and line."""

from pathlib import Path

import pytest
from PIL import Image

from dinokit.annotations.boxes import box_splits, open_boxes
from dinokit.annotations.masks import say_once
from dinokit.core.messages import UserError

TEXTS = {"a": "1 0.5 0.5 0.4 0.5\n", "b": "0 0.1 0.25 0.2 0.5\n1 0.5 0.25 0.75 0.25 0.625 0.75\n", "c": None}
BOXES = {  # on images of 20 x 12 pixels
    "a": [("dog", 6, 3, 14, 9)],
    "b": [("cat", 0, 0, 4, 6), ("dog", 10, 3, 15, 9)],
    "c": [],
}
NAMES = "names: [cat, dog, '']\n"  # of which the last is none


@pytest.fixture(autouse=True)
def nothing_said() -> None:
    """What is said once is said anew in each test."""
    say_once.cache_clear()


def write(root: Path, images: str, labels: str, texts: dict[str, str | None] = TEXTS) -> Path:
    for name, text in texts.items():
        for folder in (images, labels):
            (root / folder).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 12), "gray").save(root / images / f"{name}.jpg")
        if text is not None:
            (root / labels / f"{name}.txt").write_text(text)
    return root


def found(data: Path, **how: str) -> dict[str, list[tuple[object, ...]]]:
    opened = open_boxes(str(data), **how)
    assert opened.read(0).shape == (3, 12, 20)
    return {
        one.image.stem: [(name, *box) for name, box in zip(one.names, one.boxes.round(9).tolist(), strict=True)]
        for one in opened.marks
    }


@pytest.mark.parametrize(
    ("images", "labels", "file", "text"),
    [
        ("images/train", "labels/train", "data.yaml", "path: .\ntrain: images/train\nval: null\n" + NAMES),
        ("images/train", "labels/train", "set.yml", "path: ../gone\ntrain: images\nnames: {0: cat, 1: dog}\n"),
        ("train/images", "train/labels", "data.yaml", "train: ../train/images\nnc: 2\n" + NAMES),
        ("train/images", "train/labels", "classes.txt", "cat\ndog\n"),
        ("images/train2017", "labels/train2017", "labels/classes.txt", "cat\ndog\n"),
        ("images", "labels", "labels/classes.txt", "cat\ndog\n"),
        ("train", "train", "obj.names", "cat\ndog\n"),
        (".", ".", "classes.txt", "cat\ndog\n\n"),
        ("obj", "obj", "obj.data", "classes = 2\ntrain = data/train.txt\nvalid=gone.txt\nnames = obj.names\n"),
        ("images", "labels", "data.yaml", "train: [train.txt, images]\n" + NAMES),
        ("Images", "Labels", "DATA.YAML", "train: Images/../Images\n" + NAMES),
        ("images/Train", "labels/train", "data.yaml", "train: [images\\Train, ./images/../images/Train]\n" + NAMES),
        ("Train/Images", "Train/LABELS", "Classes.txt", "cat\ndog\n"),
        ("images", "labels", "data.yaml", "train: windows.txt\n" + NAMES),
    ],
)
def test_every_layout_holds_the_same_boxes(tmp_path: Path, images: str, labels: str, file: str, text: str) -> None:
    root = write(tmp_path / "data", images, labels)
    (root / "train.txt").write_text("".join(f"./{images}/{name}.jpg\n" for name in TEXTS))
    (root / "windows.txt").write_text("".join(f".\\images\\{name}.jpg\r\n" for name in TEXTS))
    (root / "obj.names").write_text("cat\ndog\n")
    (root / file).write_text(text)
    assert found(root) == BOXES
    if file.lower().endswith((".yaml", ".yml", ".data")):
        assert found(root / file, split="train") == BOXES


def test_a_split_is_called_as_everywhere(tmp_path: Path) -> None:
    root = write(write(tmp_path, "valid/images", "valid/labels"), "train/images", "train/labels")
    (root / "data.yaml").write_text("train: train/images\nval: valid/images\ntest: test/images\n" + NAMES)
    assert box_splits(str(root)) == ["train", "val", "test"]
    assert found(root, split="val") == BOXES
    with pytest.raises(UserError, match=r"expected .*test/images, test of .*data.yaml, which is not there"):
        open_boxes(str(root), split="test")


def test_the_text_of_an_image_is_read_in_any_case_of_its_ending(tmp_path: Path) -> None:
    root = write(tmp_path, "images", "labels")
    (root / "labels" / "a.txt").rename(root / "labels" / "a.TXT")
    (root / "classes.txt").write_text("cat\ndog\n")
    assert found(root) == BOXES


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "names: [chât]\ntrain: images\n".encode("latin-1"),
            r"data.yaml is no text of UTF-8 \(byte 10, line 1\); sa",
        ),
        (b"", "data.yaml names no images; expected train:, val: or test:"),
        (b"- cat\n", "data.yaml names no images; expected train:, val: or test:"),
    ],
)
def test_a_data_yaml_that_cannot_be_read_is_not_passed_over(tmp_path: Path, text: bytes, message: str) -> None:
    root = write(tmp_path, "images", "labels")
    (root / "data.yaml").write_bytes(text)
    with pytest.raises(UserError, match=message):
        open_boxes(str(root))


def test_classes_of_one_name_are_one_which_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write(tmp_path, "images", "labels")
    (root / "classes.txt").write_text("cat\ncat\n")
    assert {name for boxes in found(root).values() for name, *_ in boxes} == {"cat"}
    assert f"{root}/classes.txt calls several classes cat: they are one class" in capsys.readouterr().err


@pytest.mark.parametrize("names", ["[007, no, 1e3]", "{0: 007, 1: no, 2: 1e3}", "[007, 'no', \"1e3\"]"])
def test_names_are_read_as_they_are_written(tmp_path: Path, names: str) -> None:
    root = write(tmp_path, "images", "labels", {"a": "0 .5 .5 1 1\n1 .5 .5 1 1\n2 .5 .5 1 1\n"})
    (root / "data.yaml").write_text(f"train: images\nnames: {names}\n")
    assert open_boxes(str(root)).marks[0].names == ("007", "no", "1e3")


def test_without_names_classes_are_called_by_their_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write(tmp_path, "images", "labels", {"a": "12 .5 .5 1 1\n"})
    assert open_boxes(str(root)).marks[0].names == ("12",)
    assert f"{root} has no data.yaml and no classes.txt: classes are called by their" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 1.2 0.5", "line 2 of .*a.txt has 1.2; expected shares of width and height from 0 to 1, not pixels"),
        ("0 0.5 -0.5 0.2 0.5", "line 2 of .*a.txt has -0.5; expected shares"),
        ("0 0.5 nan 0.2 0.5", "line 2 of .*a.txt has nan; expected shares"),
        ("0 0.5 inf 0.2 0.5", "line 2 of .*a.txt has inf; expected shares"),
        ("0 .1 .1 .2 .2 .3 9", "line 2 of .*a.txt has 9; expected shares"),
        ("2 .5 .5 .2 .2", "has the class 2, which .*data.yaml does not name: 2 names, 0 cat, 1 dog; add it, or"),
        ("-1 .5 .5 .2 .2", "line 2 of .*a.txt has the class -1; expected a whole number, 0 for the first"),
        ("1e300 .5 .5 .2 .2", "line 2 of .*a.txt has the class 1e300; expected a whole number"),
        ("1.5 .5 .5 .2 .2", "line 2 of .*a.txt has the class 1.5; expected a whole number"),
        ("inf .5 .5 .2 .2", "line 2 of .*a.txt has the class inf; expected a whole number"),
        ("cat .5 .5 .2 .2", "line 2 of .*a.txt is 'cat .5 .5 .2 .2'; expected numbers"),
        ("0,.5,.5,.2,.2", "line 2 of .*a.txt is '0,.5,.5,.2,.2'; expected numbers"),
        ("0 .5 .5 .2", "line 2 of .*a.txt has 4 columns; expected class, cx, cy, w, h"),
        ("0 .5 .5 .2 .2 .1 .1 .2", "line 2 of .*a.txt has 8 columns; expected class, cx, cy, w, h"),
        ("0", "line 2 of .*a.txt has 1 columns"),
    ],
)
def test_a_line_that_is_none_is_refused_with_its_place(tmp_path: Path, line: str, message: str) -> None:
    root = write(tmp_path, "images", "labels", {"a": f"0 .5 .5 .2 .2\n{line}\n"})
    (root / "data.yaml").write_text("train: images\n" + NAMES)
    with pytest.raises(UserError, match=message):
        open_boxes(str(root))


def test_what_is_odd_is_said_once_with_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "0 .5 .5 .5 .5\n\n0 0.5 .5 .5 .5\n0 .5 .5 .5 .5\n1 .5 .5 0 .5\n1 .5 .5 .2 .5 0.87\n0 .9 .5 .4 1.0005\n"
    root = write(tmp_path, "images", "labels", {"a": text, "b": None, "c": ""})
    (root / "labels" / "z.txt").write_text("")
    (root / "data.yaml").write_text("train: images\n" + NAMES)
    for _ in range(2):
        assert [len(boxes) for boxes in found(root).values()] == [4, 0, 0]
    said = capsys.readouterr().err
    assert said.count("\n") == 6
    assert f"1 of 3 images have no label file and no boxes, such as {root}/images/b.jpg" in said
    assert f"1 label files of {root}/data.yaml have no image, such as {root}/labels/z.txt" in said
    for words, line in (("a sixth column", 6), ("stand there twice", 4), ("without area are left out", 5)):
        assert any(words in each and each.endswith(f"line {line} of {root}/labels/a.txt") for each in said.split("\n"))
    assert "beyond the border of their image are cut, except for AP: 1" in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: images\nnames: {a: cat}\n", "expected numbers before the names of classes, got"),
        (
            "train: images\nnames: 3\n",
            r"expected .*/3, names of .*data.yaml \(a list, number: name, or the file",
        ),
        (f"train: {'z' * 5000}\nnames: [cat]\n", "expected .*z, train of .*data.yaml, which is not there"),
        ("train: images\nnames: [[cat]]\n", "expected the names of classes, a list or number: name, got"),
        ("train: {a: images}\nnames: [cat]\n", "train is .*; expected a folder of images, a .txt, or a list of them"),
        ("train: images\nnames: [cat\n", "data.yaml is not valid YAML"),
        ("train: images\nnames: [cat]\nkpt_shape: many\n", "kpt_shape is many; expected two numbers"),
        ("train: images\nnames: [cat]\nkpt_shape: 17\n", "kpt_shape is 17; expected two numbers"),
        ("train: images\nnames: [cat]\nkpt_shape: [17]\n", "kpt_shape is .*; expected two numbers"),
        ("train: images\nnames: [cat]\nkpt_shape: [-1, 3]\n", "kpt_shape is .*; expected two numbers"),
        ("path: ~nosuchuser/x\ntrain: gone\nnames: [cat]\n", "expected .*~nosuchuser/x/gone, train of .*data.yaml, wh"),
        ("train: labels\nnames: [cat]\n", "found no image in .*labels"),
        ("train: list.txt\nnames: [cat]\n", r"expected .*b.jpg, a line of .*list.txt, which is not there"),
        ("train:\nval: ''\nnames: [cat]\n", "data.yaml names no images; expected train:"),
        (
            "train: other\nnames: [cat]\n",
            "expected labels of the 1 images of .*, such as .*other/x.txt",
        ),
    ],
)
def test_a_file_that_says_nothing_of_use_is_named(tmp_path: Path, text: str, message: str) -> None:
    root = write(write(tmp_path, "images", "labels"), "other", "other", {"x": None})
    (root / "list.txt").write_text("images/a.jpg\nimages/none/b.jpg\n")
    (root / "data.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        open_boxes(str(root))


def test_points_behind_a_box_are_passed_over_where_the_set_says_so(tmp_path: Path) -> None:
    root = write(tmp_path, "images", "labels", {"a": "0 0.5 0.5 0.4 0.5 0.1 0.1 2 0 0 0\n"})
    (root / "data.yaml").write_text("train: images\nkpt_shape: [2, 3]\n" + NAMES)
    assert found(root) == {"a": [("cat", 6, 3, 14, 9)]}
