"""COCO's files and those of its kin: ids with gaps, LVIS by address, domains, and what is odd is said by its place."""

import json
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dinokit.annotations.boxes import box_domains, box_splits, open_boxes
from dinokit.annotations.masks import say_once
from dinokit.core.messages import UserError
from dinokit.metrics.detection import Found, Objects, average_precision


@pytest.fixture(autouse=True)
def nothing_said() -> None:
    """What is said once is said anew in each test."""
    say_once.cache_clear()


def coco(**more: Any) -> dict[str, Any]:
    """Two images and two boxes, with ids as COCO has them: of any order, with gaps."""
    return {
        "images": [
            {"id": 42, "file_name": "a.jpg", "width": 20, "height": 12},
            {"id": 7, "file_name": "b.jpg", "width": 20, "height": 12},
        ],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 90, "bbox": [1, 2, 3, 4], "area": 5, "iscrowd": 0},
            {"id": 2, "image_id": 42, "category_id": 13, "bbox": [0, 0, 20, 12], "iscrowd": 1},
        ],
        "categories": [{"id": 90, "name": "toothbrush"}, {"id": 13, "name": 7}],
    } | more


def write(root: Path, plain: object, *, name: str = "instances_val2017.json", images: str = "val2017") -> Path:
    for each in "ab":
        (root / images).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 12), "gray").save(root / images / f"{each}.jpg")
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / name).write_text(plain if isinstance(plain, str) else json.dumps(plain))
    return root


def test_ids_of_images_and_classes_are_those_of_the_file(tmp_path: Path) -> None:
    data = open_boxes(str(write(tmp_path, coco())), split="val")
    assert [(one.number, one.names, one.crowd.tolist()) for one in data.marks] == [
        (42, ("7",), [True]),
        (7, ("toothbrush",), [False]),
    ]
    assert {name: kind.number for name, kind in data.kinds.items()} == {"toothbrush": 90, "7": 13}
    assert data.marks[1].areas.tolist() == [5]
    assert data.read(1).shape == (3, 12, 20)
    file = tmp_path / "annotations" / "instances_val2017.json"
    assert open_boxes(str(file)).marks[0].image == data.marks[0].image


def lvis() -> dict[str, Any]:
    plain = coco()
    for image, url in zip(plain["images"], ("train2017/a.jpg", "val2017/b.jpg"), strict=True):
        del image["file_name"]
        image["coco_url"] = f"http://images.cocodataset.org/{url}"
        image["neg_category_ids"], image["not_exhaustive_category_ids"] = [90], [13]
    for mark in plain["annotations"]:
        del mark["iscrowd"]
        mark.pop("iscrowd", None)
    plain["categories"][0]["frequency"] = "r"
    plain["categories"][1]["frequency"] = "f"
    return plain


def test_without_categories_classes_are_called_by_their_ids(tmp_path: Path) -> None:
    data = open_boxes(str(write(tmp_path, coco(categories=None))))
    assert [one.names for one in data.marks] == [("13",), ("90",)]
    assert {name: kind.number for name, kind in data.kinds.items()} == {"13": 13, "90": 90}


def test_images_of_lvis_are_found_by_the_address_at_which_they_were_published(tmp_path: Path) -> None:
    root = write(
        write(tmp_path, lvis(), name="lvis_v1_val.json", images="train2017"), lvis(), name="lvis_v1_train.json"
    )
    write(root, "{}", name="lvis_v1_image_info_test_dev.json")
    assert box_splits(str(root)) == ["train", "val"]
    data = open_boxes(str(root), split="val")
    assert [str(one.image.relative_to(root)) for one in data.marks] == ["train2017/a.jpg", "val2017/b.jpg"]
    assert data.federated
    assert {name: kind.frequency for name, kind in data.kinds.items()} == {"toothbrush": "r", "7": "f"}
    assert (data.marks[0].absent, data.marks[0].some_drawn) == ({"toothbrush"}, {"7"})
    write(root, coco())  # of COCO itself, whose splits have the names
    assert box_splits(str(root)) == ["val", "lvis_v1_train", "lvis_v1_val"]
    assert not open_boxes(str(root), split="val").federated


def test_domains_are_opened_as_splits_are(tmp_path: Path) -> None:
    for domain in ("sketch", "tattoo"):
        write(tmp_path / domain, coco())
        write(tmp_path / domain, coco(), name="instances_train2017.json", images="train2017")
    assert box_domains(str(tmp_path)) == box_splits(str(tmp_path)) == ["sketch", "tattoo"]
    data = open_boxes(str(tmp_path), split="tattoo")
    assert data.marks[0].image == tmp_path / "tattoo" / "val2017" / "a.jpg"
    assert box_domains(str(tmp_path / "tattoo")) == []


def changed(path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    plain = coco()
    part: Any = plain
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    return plain


FIRST = ("annotations", 0)


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        (changed((*FIRST, "bbox"), [1, 2, float("nan"), 4]), "numbers of pixels in every bbox of image 7 of .*val2017"),
        (changed((*FIRST, "bbox"), [1, None, 3, 4]), "every bbox of image 7 of .*, got 1, nothing, 3, 4; correct them"),
        (changed(("images", 0, "width"), -20), "a.jpg and its boxes .* of one size, got 20 x 12 and -20 x 12 pixels"),
        (changed(("images", 0), {"id": 42, "file_name": "a.jpg", "width": 0, "height": 9}), "12 and 20 x 9 pixels"),
        (changed(FIRST, {"id": None, "image_id": 7}), "an annotation of image 7 of .*val2017.json has no bbox; add it"),
        (changed((*FIRST, "bbox"), "many"), "numbers of pixels in every bbox of image 7 of .*val2017.json, got"),
        (changed(("images", 0, "id"), 7), "val2017.json lists 2 images of the id 7"),
        (changed(("images", 0, "width"), "far"), "expected numbers of pixels in width and height of image 42 of .*val"),
        (
            changed(("images", 0, "file_name"), None),
            "image 42 of .*val2017.json has the file_name null; expected a p",
        ),
        (changed(("images", 0, "file_name"), "z" * 5000), "expected the image .*z of image 42 of .*, which is not"),
        (changed(("images", 0, "file_name"), "z.jpg"), "expected the image .*z.jpg of image 42 of .*, which is not"),
        (changed(("categories", 0, "id"), 13), "lists the category id 13 twice, as toothbrush and as 7"),
        (changed(("categories", 0), {"id": 3}), "category 3 of .*val2017.json has no name; add it"),
        (changed(("annotations",), None), "is no list of images and boxes as COCO writes it: it has no list of annot"),
        (changed(("categories", 0, "name"), " "), 'category 90 of .*val2017.json has the name " "; name it'),
        (changed(("categories", 0, "name"), None), "category 90 of .*val2017.json has the name null; name it"),
        (changed(("categories",), {"90": "cat"}), "val2017.json has the categories .*; expected a list"),
        (changed((*FIRST, "category_id"), None), "image 7 of .* has a box without a class, .*, such as 7; name it"),
        (changed((*FIRST, "category_id"), "90"), 'annotation 1 of .* has the category_id "90", where 90 is listed'),
        (
            changed((*FIRST, "image_id"), "7"),
            'annotation 1 of .* has the image_id "7", where 7 is listed; write both',
        ),
        (changed(FIRST, None), "expected annotation 0 of .*val2017.json as {...}, got null"),
        (
            changed((*FIRST, "bbox"), [1, 2, 10**400, 4]),
            "numbers of pixels in every bbox of image 7 of .*, got 1, 2, ",
        ),
        (changed((*FIRST, "area"), 10**400), "annotation 1 of .*val2017.json has the area 10*; expected a number"),
        (changed(("images", 0), {"id": 42, "width": 2}), "image 42 of .*val2017.json has no file_name; add it"),
        (changed(("images", 0), {"width": 2}), "an image of .*val2017.json has no id; add it"),
        (changed(("annotations", 1), {"id": 5}), "annotation 5 of .*val2017.json has no image_id; add it"),
        (changed(("annotations", 1), {"id": 5, "image_id": 7}), "annotation 5 of .*val2017.json has no bbox; add it"),
        (changed((*FIRST, "area"), "many"), 'annotation 1 of .*val2017.json has the area "many"; expected a number'),
        (changed((*FIRST, "iscrowd"), "no"), 'annotation 1 of .*val2017.json has the iscrowd "no"; expected a number'),
        (
            changed(("images", 0, "neg_category_ids"), 3),
            "image 42 of .*val2017.json has the neg_category_ids 3; exp",
        ),
        (changed(("annotations",), []), "expected boxes on the images of .*, found none"),
        (changed(("images",), []), "as COCO writes it: it lists no image"),
        ("", "val2017.json is no JSON"),
        ("[]", "is no list of images and boxes as COCO writes it"),
    ],
)
def test_a_file_that_cannot_be_right_is_named(tmp_path: Path, plain: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_boxes(str(write(tmp_path, plain)))


@pytest.mark.parametrize(
    ("plain", "said", "boxes"),
    [
        (changed((*FIRST, "image_id"), 99), "of images that it does not list are left out: 1, such as annota", 1),
        (changed((*FIRST, "category_id"), 5), "of classes that it does not list are left out: 1, such as anno", 1),
        (changed((*FIRST, "bbox"), [1, 2, 0, 4]), "without area are left out, except for AP: 1, such as [1.0, 2.0", 1),
        (
            changed((*FIRST, "bbox"), [30, 2, 9, 4]),
            "outside their image are left out, except for AP: 1, such as [30",
            1,
        ),
        (changed(("categories", 1, "name"), "toothbrush"), "calls several categories toothbrush: they are one cl", 2),
        (changed(("categories",), []), "lists no categories: classes are called by their numbers", 2),
        (changed(("categories",), None), "lists no categories: classes are called by their numbers", 2),
        (changed((*FIRST, "area"), -4), "an area that is none are taken to have that of the box: 1, such as anno", 2),
    ],
)
def test_what_is_odd_is_said_with_its_file(
    tmp_path: Path, plain: object, said: str, boxes: int, capsys: pytest.CaptureFixture[str]
) -> None:
    data = open_boxes(str(write(tmp_path, plain)))
    assert sum(len(one.boxes) for one in data.marks) == boxes
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == bool(said)
    assert all(said in line and str(tmp_path) in line for line in lines)


@pytest.mark.parametrize("said", [None, float("nan"), float("inf"), -1, "-1"])
def test_an_area_that_is_none_is_that_of_the_box(tmp_path: Path, said: object) -> None:
    data = open_boxes(str(write(tmp_path, changed((*FIRST, "area"), said))))
    assert data.marks[1].areas.tolist() == [12]


def test_a_crowd_is_told_by_a_number_however_it_is_written(tmp_path: Path) -> None:
    for place, (said, crowd) in enumerate([("0", False), ("1", True), (None, False), (True, True), (0.0, False)]):
        root = tmp_path / str(place)
        root.mkdir()
        assert open_boxes(str(write(root, changed((*FIRST, "iscrowd"), said)))).marks[1].crowd.tolist() == [crowd]


@pytest.mark.parametrize("said", [0, None])
def test_a_width_that_is_not_said_is_that_of_the_image(tmp_path: Path, said: object) -> None:
    assert open_boxes(str(write(tmp_path, changed(("images", 0, "width"), said)))).marks[0].size == (20, 12)


def test_a_list_that_is_null_is_not_there(tmp_path: Path) -> None:
    plain = coco()
    for image in plain["images"]:
        image["neg_category_ids"] = image["not_exhaustive_category_ids"] = None
    data = open_boxes(str(write(tmp_path, plain)))
    assert not data.federated
    assert (data.marks[0].absent, data.marks[0].some_drawn) == (set(), set())


def test_the_precision_on_what_is_written_is_that_of_pycocotools_on_the_file(tmp_path: Path) -> None:
    """One box goes on for 0.9 pixels beyond its image, one has no width, one lies outside."""
    plain = coco()
    sides = [[11, 2, 9.9, 4], [3, 3, 0, 4], [30, 2, 5, 5], [2, 2, 8, 8]]
    plain["annotations"] = [
        {"id": 1 + place, "image_id": 7, "category_id": 90, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for place, box in enumerate(sides)
    ]
    file = write(tmp_path, plain) / "annotations" / "instances_val2017.json"
    said = [{"image_id": 7, "category_id": 90, "bbox": box, "score": 0.5} for box in ([11, 2, 9.9, 4], [2, 2, 8, 8])]
    with redirect_stdout(StringIO()):
        truth = COCO(str(file))
        judge = COCOeval(truth, truth.loadRes(said), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    data = open_boxes(str(file))
    objects = [Objects(one.boxes, numpy.zeros(len(one.boxes), int), one.areas, one.crowd) for one in data.written]
    boxes = data.written[1].boxes[[0, 3]]
    found = [Found(boxes[:0], numpy.zeros(0, int), numpy.zeros(0)), Found(boxes, numpy.zeros(2, int), numpy.ones(2))]
    numbers, _ = average_precision(objects, found, classes=1)
    assert numbers["AP"] == pytest.approx(100 * judge.stats[0], rel=0, abs=1e-9)
    assert data.marks[1].boxes.tolist() == [[11, 2, 20, 6], [2, 2, 10, 10]]  # for learning


def test_numbers_are_those_of_the_first_of_two_classes_of_one_name(tmp_path: Path) -> None:
    data = open_boxes(str(write(tmp_path, changed(("categories", 1, "name"), "toothbrush"))))
    assert data.kinds["toothbrush"].number == 90
    numpy.testing.assert_array_equal([one.names for one in data.marks], [["toothbrush"], ["toothbrush"]])
