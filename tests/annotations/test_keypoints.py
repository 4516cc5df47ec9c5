"""Pairs with points: lists in both forms say the same, and what is wrong is said in one line."""

import json
from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image

from dinokit.annotations.keypoints import open_point_pairs
from dinokit.core.messages import UserError

GOOD: dict[str, Any] = {"image_a": "a.png", "image_b": "b.png", "points_a": [[1, 2]], "points_b": [[3, 4.5]]}


def listed(root: Path, *rows: object) -> Path:
    for name, size in (("a.png", (8, 6)), ("b.png", (5, 9))):
        Image.new("RGB", size).save(root / name)
    (root / "pairs.jsonl").write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return root


def test_a_list_is_read_from_its_folder_or_by_name(tmp_path: Path) -> None:
    root = listed(tmp_path, GOOD | {"name": "cat", "box_b": [0, 1, 4, 8]}, "", GOOD | {"box_b": [0, 0, 1, 1]})
    for place in (root, root / "pairs.jsonl"):
        pairs = open_point_pairs(place)
        assert pairs is not None
        assert [pair.name for pair in pairs] == ["cat", "all"]
        assert pairs[0].images == (root / "a.png", root / "b.png")
        assert pairs[0].box == (0, 1, 4, 8)
        assert [points.tolist() for points in pairs[0].points] == [[[1, 2]], [[3, 4.5]]]
        assert [tuple(image.shape[1:]) for image in pairs[0].read(3)] == [(6, 8), (9, 5)]


def test_a_csv_says_the_same(tmp_path: Path) -> None:
    root = listed(tmp_path, GOOD | {"name": "12"})
    (root / "other.csv").write_text(
        'image_a,image_b,points_a,points_b,name,box_b\na.png,b.png,"[[1, 2]]","[[3, 4.5]]",12,'
    )
    (left,), (right,) = open_point_pairs(root) or [], open_point_pairs(root / "other.csv") or []
    assert left.name == right.name == "12"
    assert left.box is right.box is None
    assert all(numpy.array_equal(a, b) for a, b in zip(left.points, right.points, strict=True))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{", "line 2 is no object of JSON"),
        ("[1]", "line 2 is no object of JSON"),
        ({"image_a": "a.png"}, "line 2 has no image_b"),
        (GOOD | {"points_a": [[1, 2, 3]]}, "points_a in .* must be a list of"),
        (GOOD | {"points_b": []}, "points_b in .* must be a list of"),
        (GOOD | {"points_b": "here"}, "points_b in .* must be a list of"),
        (GOOD | {"points_b": [[1, float("nan")]]}, "points_b in .* must be a list of"),
        (GOOD | {"points_a": [[1, 2], [1, 2]]}, "2 points_a and 1 points_b"),
        (GOOD | {"image_b": "c.png"}, "c.png of .* does not exist"),
        (GOOD | {"box_b": [5, 5, 1, 9]}, "must be .left, top, right, bottom."),
        (GOOD | {"box_b": [0, 0, 4, 4]}, "1 of 2 pairs .* have a box_b"),
    ],
)
def test_a_bad_line_is_said_with_its_place(row: object, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said) as caught:
        open_point_pairs(listed(tmp_path, GOOD, row))
    assert "\n" not in str(caught.value)


def test_a_list_without_pairs_and_other_files_are_mistakes(tmp_path: Path) -> None:
    root = listed(tmp_path)
    with pytest.raises(UserError, match="holds no pair"):
        open_point_pairs(root)
    with pytest.raises(UserError, match=r"expected a list of pairs \.jsonl or \.csv"):
        open_point_pairs(root / "a.png")
    with pytest.raises(UserError, match="no splits such as 'val'"):
        open_point_pairs(root, split="val")


def test_points_must_lie_on_their_image(tmp_path: Path) -> None:
    for points, fits in (([[7, 5]], True), ([[5, 7]], False), ([[-2, 1]], False)):  # a.png is 8 x 6
        (pair,) = open_point_pairs(listed(tmp_path, GOOD | {"points_a": points})) or []
        if fits:
            pair.read(3)
            continue
        with pytest.raises(UserError, match=r"lies outside .*a\.png, which is 8 x 6 pixels"):
            pair.read(3)


def test_spair_is_read_as_published(tmp_path: Path) -> None:
    (tmp_path / "JPEGImages" / "cat").mkdir(parents=True)
    for name in ("1.jpg", "2.jpg"):
        Image.new("RGB", (20, 10)).save(tmp_path / "JPEGImages" / "cat" / name)
    about: dict[str, Any] = {"src_imname": "1.jpg", "trg_imname": "2.jpg", "category": "cat"}
    about |= {"src_kps": [[1, 2], [3, 4]], "trg_kps": [[5, 6], [7, 8]], "trg_bndbox": [1, 1, 19, 9]}
    (tmp_path / "PairAnnotation" / "test").mkdir(parents=True)
    file = tmp_path / "PairAnnotation" / "test" / "1-1-2:cat.json"
    file.write_text(json.dumps(about))
    (pair,) = open_point_pairs(tmp_path) or []
    assert (pair.name, pair.box, pair.images[1].name) == ("cat", (1, 1, 19, 9), "2.jpg")
    assert pair.points[1].tolist() == [[5, 6], [7, 8]]
    with pytest.raises(UserError, match="found no .*json"):
        open_point_pairs(tmp_path, split="val")
    with pytest.raises(UserError, match="unknown split 'train'"):
        open_point_pairs(tmp_path, split="train")
    file.write_text(json.dumps({"src_imname": "1.jpg"}))
    with pytest.raises(UserError, match="has no category"):
        open_point_pairs(tmp_path)


def test_other_folders_are_left_to_others(tmp_path: Path) -> None:
    assert open_point_pairs(tmp_path) is None


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ('a.png,b.png,"' + "[" * 100_000 + '","[[3, 4]]"', "points_a in .*line 2 must be a list of"),
        ('a.png,b.png,"[[' + "9" * 5_000 + ', 1]]","[[3, 4]]"', "points_a in .*line 2 must be a list of"),
        ('a.png,b.png,"' + "[[1, 2]]," * 20_000 + '","[[3, 4]]"', "line 2 is no line of a CSV: field larger"),
        ('a.png,b.png,"[[1e400, 2]]","[[3, 4]]"', "points_a in .*line 2 must be a list of"),
    ],
)
def test_cells_without_end_are_said_in_one_line(row: str, said: str, tmp_path: Path) -> None:
    root = listed(tmp_path, GOOD)
    (root / "other.csv").write_text(f"image_a,image_b,points_a,points_b\n{row}\n")
    with pytest.raises(UserError, match=said) as caught:
        open_point_pairs(root / "other.csv")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_lists_of_other_encodings_are_said(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_bytes("image_a,Straße\n".encode("latin-1"))
    with pytest.raises(UserError, match="is no text of UTF-8"):
        open_point_pairs(tmp_path)
