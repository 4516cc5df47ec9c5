"""Pairs of images: lists with points in both forms say the same, and what two cameras see comes together in 3D."""

import json
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image

from dinokit.annotations.matching import PointPair, open_matching
from dinokit.annotations.navi import Surface, View, ViewPair, angles, rotation
from dinokit.core.messages import UserError

GOOD: dict[str, Any] = {"image_a": "a.png", "image_b": "b.png", "points_a": [[1, 2]], "points_b": [[3, 4.5]]}


def of_points(place: Path, split: str | None = None) -> list[PointPair]:
    return [pair for pair in open_matching(str(place), split=split) if isinstance(pair, PointPair)]


def listed(root: Path, *rows: object) -> Path:
    for name, size in (("a.png", (8, 6)), ("b.png", (5, 9))):
        Image.new("RGB", size).save(root / name)
    (root / "pairs.jsonl").write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return root


def test_a_list_is_read_from_its_folder_or_by_name(tmp_path: Path) -> None:
    root = listed(tmp_path, GOOD | {"name": "cat", "box_b": [0, 1, 4, 8]}, "", GOOD | {"box_b": [0, 0, 1, 1]})
    for place in (root, root / "pairs.jsonl"):
        pairs = of_points(place)
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
    (left,), (right,) = of_points(root), of_points(root / "other.csv")
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
        of_points(listed(tmp_path, GOOD, row))
    assert "\n" not in str(caught.value)


def test_a_list_without_pairs_and_other_files_are_mistakes(tmp_path: Path) -> None:
    root = listed(tmp_path)
    with pytest.raises(UserError, match="holds no pair"):
        of_points(root)
    with pytest.raises(UserError, match=r"expected a list of pairs \.jsonl or \.csv"):
        of_points(root / "a.png")
    with pytest.raises(UserError, match="no splits such as 'val'"):
        of_points(root, split="val")


def test_points_must_lie_on_their_image(tmp_path: Path) -> None:
    for points, fits in (([[7, 5]], True), ([[5, 7]], False), ([[-2, 1]], False)):  # a.png is 8 x 6
        (pair,) = of_points(listed(tmp_path, GOOD | {"points_a": points}))
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
    (pair,) = of_points(tmp_path)
    assert (pair.name, pair.box, pair.images[1].name) == ("cat", (1, 1, 19, 9), "2.jpg")
    assert pair.points[1].tolist() == [[5, 6], [7, 8]]
    with pytest.raises(UserError, match="found no .*json"):
        of_points(tmp_path, split="val")
    with pytest.raises(UserError, match="unknown split 'train'"):
        of_points(tmp_path, split="train")
    file.write_text(json.dumps({"src_imname": "1.jpg"}))
    with pytest.raises(UserError, match="has no category"):
        of_points(tmp_path)


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
        of_points(root / "other.csv")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_lists_of_other_encodings_are_said(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_bytes("image_a,Straße\n".encode("latin-1"))
    with pytest.raises(UserError, match="is no text of UTF-8"):
        of_points(tmp_path)


HALF = 0.5**0.5
QUARTER_Z = [HALF, 0.0, 0.0, HALF]  # 90 degrees about z


def of_views(place: Path) -> list[ViewPair]:
    return [pair for pair in open_matching(str(place)) if isinstance(pair, ViewPair)]


def written(root: Path, turns: list[list[float]]) -> Path:
    """An object of 4 x 6 pixels at 500 mm in images of 20 x 12, seen with the given turns."""
    scene = root / "vase" / "wild_set"
    for name in ("images", "depth"):
        (scene / name).mkdir(parents=True)
    listed = []
    for index, q in enumerate(turns):
        Image.new("RGB", (20, 12)).save(scene / "images" / f"{index:03d}.jpg")
        values = numpy.zeros((12, 20), dtype=numpy.uint16)
        values[3:9, 5:9] = 1311
        Image.fromarray(values).save(scene / "depth" / f"{index:03d}.png")
        camera = {"q": q, "t": [0, 0, 500], "focal_length": 100.0}
        listed.append({"filename": f"{index:03d}.jpg", "image_size": [12, 20], "camera": camera})
    (scene / "annotations.json").write_text(json.dumps(listed))
    return root


def test_a_quaternion_turns_as_it_should() -> None:
    turned = rotation(QUARTER_Z)
    numpy.testing.assert_allclose(turned @ [1, 0, 0], [0, 1, 0], atol=1e-12)
    numpy.testing.assert_allclose(rotation([2, 0, 0, 0]), numpy.eye(3))
    numpy.testing.assert_allclose(rotation([HALF, HALF, 0, 0]) @ [0, 1, 0], [0, 0, 1], atol=1e-12)
    both = angles(numpy.stack([numpy.eye(3), turned, turned @ turned]))
    numpy.testing.assert_allclose(both[0], [0, 90, 180], atol=1e-5)


def test_a_point_is_carried_from_camera_to_camera() -> None:
    point = numpy.array([[10.0, -20.0, 5.0]])  # of the object
    cameras = [(rotation([0.9, 0.1, -0.3, 0.2]), numpy.array([1.0, 2, 600])), (rotation(QUARTER_Z), numpy.zeros(3))]
    views = [View(Path(), Path(), turn, shift, 1.0) for turn, shift in cameras]
    first, second = (point @ turn.T + shift for turn, shift in cameras)
    numpy.testing.assert_allclose(ViewPair("x", (views[0], views[1])).carry(first), second, atol=1e-9)


def test_pixels_become_points_of_the_surface() -> None:
    distance = numpy.zeros((4, 6))
    distance[1, 2] = 500
    surface = Surface(torch.zeros(3, 4, 6), distance, 100.0)
    points, there = surface.at(numpy.array([[2.0, 1.0], [1.0, 2.0], [2.49, 0.51], [-3, 1], [6, 1]]))
    assert there.tolist() == [True, False, True, False, False]
    # the axis meets the corner of four pixels, 0.5 right of and below this one
    numpy.testing.assert_allclose(points[0], [-2.5, -2.5, 500])
    assert surface.box == (2, 1, 3, 2)


def test_the_published_layout_is_read(tmp_path: Path) -> None:
    (pair,) = of_views(written(tmp_path / "navi_v1", [[1, 0, 0, 0], QUARTER_Z]).parent)
    assert pair.name == "vase"
    surface = pair.views[0].read(3)
    assert surface.box == (5, 3, 9, 9)
    assert abs(surface.distance[4, 6] - 500) < 0.2
    assert surface.focal == 100


def test_views_from_behind_are_no_pair_and_every_fourth_counts(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="within 120 degrees"):
        of_views(written(tmp_path / "behind", [[1, 0, 0, 0], [0, 0, 1, 0]]))
    pairs = of_views(written(tmp_path / "many", [[1, 0, 0, 0]] * 9))
    assert [pair.views[0].image.stem for pair in pairs] == ["000", "004", "008"]
    assert all(pair.views[0].image != pair.views[1].image for pair in pairs)
    again = of_views(tmp_path / "many")
    assert [pair.views[1].image for pair in again] == [pair.views[1].image for pair in pairs]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected PairAnnotation/ .* found none of these"):
        of_views(tmp_path)
    root = written(tmp_path / "set", [[1, 0, 0, 0], QUARTER_Z])
    scene = root / "vase" / "wild_set"
    Image.fromarray(numpy.ones((12, 12), dtype=numpy.uint16)).save(scene / "depth" / "000.png")
    (pair,) = of_views(root)
    with pytest.raises(UserError, match="is no depth of"):
        pair.views[0].read(3)
    (scene / "depth" / "001.png").unlink()
    with pytest.raises(UserError, match=r"001\.png does not exist"):
        of_views(root)
    (scene / "annotations.json").write_text('[{"filename": "000.jpg"}]')
    with pytest.raises(UserError, match="no list of views with a camera"):
        of_views(root)
