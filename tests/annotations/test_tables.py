"""Tables of boxes as people write them: one image under several spellings, names of classes, and what is no table."""

import json
from pathlib import Path

import numpy
import pytest

from dinokit.annotations.boxes import box_splits, open_boxes
from dinokit.annotations.masks import say_once
from dinokit.core.messages import UserError
from tests.annotations.test_boxes import coco_json, picture, table

HEADER = "path,x0,y0,x1,y1,label\n"


@pytest.fixture(autouse=True)
def nothing_said() -> None:
    """What is said once is said anew in each test."""
    say_once.cache_clear()


def test_an_image_is_one_however_its_path_is_written(tmp_path: Path) -> None:
    picture(tmp_path / "inner" / "c.jpg")
    paths = ("inner/c.jpg", "./inner/c.jpg", "inner\\c.jpg", " inner//c.jpg")
    rows = "".join(f'"{path}",{place},1,9,9,cat\n' for place, path in enumerate(paths))
    data = open_boxes(str(table(tmp_path, HEADER + rows)))
    assert [(one.image, one.boxes[:, 0].tolist()) for one in data.marks] == [(tmp_path / "inner/c.jpg", [0, 1, 2, 3])]


def test_a_column_says_of_which_split_a_row_is(tmp_path: Path) -> None:
    rows = ("a.jpg,1,1,9,9,cat,training", "b.jpg,2,1,9,9,cat,val", "a.jpg,3,1,9,9,dog,training", "b.jpg,,,,,,val")
    root = table(tmp_path, f"{HEADER.strip()},Split\n" + "\n".join(rows) + "\n")
    assert box_splits(str(root)) == box_splits(str(root / "boxes.csv")) == ["train", "val"]
    train, val = (open_boxes(str(root), split=name) for name in ("train", "val"))
    assert [(one.image.name, one.boxes[:, 0].tolist()) for one in train.marks] == [("a.jpg", [1, 3])]
    assert [(one.image.name, one.boxes[:, 0].tolist()) for one in val.marks] == [("b.jpg", [2])]
    rows = ("a.jpg,1,1,9,9,cat,train", "b.jpg,1,1,9,9,cat,val", "c.jpg,1,1,9,9,cat,")
    table(tmp_path, f"{HEADER.strip()},split\n" + "\n".join(rows) + "\n")
    with pytest.raises(UserError, match=r"row 3 of .*boxes.csv has no split; give every row one, or none"):
        box_splits(str(root))


def test_two_words_for_a_split_are_one_split_and_folds_are_none(tmp_path: Path) -> None:
    picture(tmp_path / "c.jpg")
    rows = [f"{name}.jpg,1,1,9,9,cat" for name in "abc"]
    for words, splits, count in ((("train", "Training", "val"), ["train", "val"], 2), (("0", "1", "2"), [], 3)):
        lines = (f"{row},{word}\n" for row, word in zip(rows, words, strict=True))
        root = str(table(tmp_path, f"{HEADER.strip()},split\n{''.join(lines)}"))
        assert box_splits(root) == splits
        assert len(open_boxes(root)) == count


def test_a_row_that_stands_there_twice_counts_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = table(tmp_path, f"{HEADER}a.jpg,1,1,9,9,cat\na.jpg,1,1,9,9,dog\na.jpg,1.0,1,9,9,cat\n")
    assert open_boxes(str(root)).marks[0].names == ("cat", "dog")
    assert f"stand there twice and count once: 1, such as row 3 of {root}/boxes.csv" in capsys.readouterr().err


@pytest.mark.parametrize(("said", "name"), [(0, "0"), (1.0, "1"), (" cat ", "cat"), (["cat"], "cat")])
def test_a_class_is_the_word_in_its_cell(tmp_path: Path, said: object, name: str) -> None:
    row = {"path": "a.jpg", "x0": 1, "y0": 1, "x1": 9, "y1": 9, "label": said}
    assert open_boxes(str(table(tmp_path, json.dumps(row), name="boxes.jsonl"))).marks[0].names == (name,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.jpg,1,1,9,9,\nb.jpg,1,1,9,9,cat\n", "a.jpg in .*boxes.csv has a box without a class, .* such as cat; name"),
        (",1,1,9,9,cat\n", "row 1 of .*boxes.csv has no path; give it one or take the row out"),
        ("a.jpg,1,1,1e300,1e300,cat\n", "numbers of pixels in row 1 of .*boxes.csv, got 1, 1, 1e300, 1e300; correct"),
        ("z.jpg,1,1,9,9,cat\n", "expected the image .*z.jpg of .*z.jpg in .*boxes.csv, which is not there"),
        (f"{'z' * 5000}.jpg,1,1,9,9,cat\n", "expected the image .*z.jpg of .*, which is not there"),
    ],
)
def test_a_row_that_cannot_be_right_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_boxes(str(table(tmp_path, HEADER + text)))


def test_a_table_is_of_utf_8(tmp_path: Path) -> None:
    root = table(tmp_path, "")
    picture(root / "parts" / "train" / "a.jpg")
    for folder, data in ((root, root), (root / "parts" / "train", root / "parts")):
        (folder / "boxes.csv").write_bytes(f"{HEADER}a.jpg,1,1,9,9,chât\n".encode("latin-1"))
        with pytest.raises(UserError, match=r"boxes.csv is no text of UTF-8 \(byte 39, line 2\); save it as UTF-8"):
            open_boxes(str(data))


@pytest.mark.parametrize(
    ("name", "text"), [("BOXES.CSV", f"{HEADER}a.jpg,1,1,9,9,cat\n"), ("Boxes.JSON", json.dumps(coco_json()))]
)
def test_a_table_is_found_in_any_case(tmp_path: Path, name: str, text: str) -> None:
    root = table(tmp_path, text, name=name)
    assert open_boxes(str(root)).marks[0].names == open_boxes(str(root / name)).marks[0].names == ("cat",)


def test_a_file_of_another_kind_is_refused_by_its_ending(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    with pytest.raises(UserError, match=r"expected boxes in a folder or a file that ends in .csv, .*, got .*a.jpg$"):
        open_boxes(str(tmp_path / "a.jpg"))


def test_the_area_of_a_box_that_is_cut_is_what_is_left_of_it_but_for_the_precision(tmp_path: Path) -> None:
    drawn = {"a": [(10, 0, 100, 10)], "b": [(0, 0, 20, 12), (15, 3, 26, 9)]}
    plain = coco_json(drawn)
    plain["annotations"][1]["area"] = 7  # type: ignore[index]
    data = open_boxes(str(table(tmp_path, json.dumps(plain), name="boxes.json")))
    assert [one.areas.tolist() for one in data.marks] == [[100], [7, 30]]
    numpy.testing.assert_equal([one.areas.tolist() for one in data.written], [[900], [7, 66]])
