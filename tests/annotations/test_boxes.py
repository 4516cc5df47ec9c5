"""Boxes on images: every way to write them gives the same ones, and what is odd is said or refused by name."""

import json
from pathlib import Path

import numpy
import pytest
from PIL import Image

from dinokit.annotations.boxes import box_splits, open_boxes
from dinokit.annotations.masks import say_once
from dinokit.core.messages import UserError

DRAWN = {"a": [(2, 3, 10, 8)], "b": [(0, 0, 20, 12), (4, 4, 6, 6)]}  # edges, on images of 20 x 12 pixels


@pytest.fixture(autouse=True)
def nothing_said() -> None:
    """What is said once is said anew in each test."""
    say_once.cache_clear()


def picture(path: Path, size: tuple[int, int] = (20, 12)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "gray").save(path)


def voc(root: Path, drawn: dict[str, list[tuple[float, ...]]] = DRAWN, *, lists: bool = True) -> Path:
    """Write Pascal VOC as it is published, pixels counted from 1."""
    for folder in ("Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for name, boxes in drawn.items():
        picture(root / "JPEGImages" / f"{name}.jpg")
        objects = "".join(
            f"<object><name>cat</name><difficult>{place}</difficult><bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin>"
            f"<xmax>{end}</xmax><ymax>{below}</ymax></bndbox><part><name>head</name><bndbox><xmin>1</xmin>"
            "<ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part></object>"
            for place, (x, y, end, below) in enumerate(boxes)
        )
        size = "<size><width>20</width><height>12</height><depth>3</depth></size>"
        text = f"<annotation><filename>{name}.jpg</filename>{size}{objects}</annotation>"
        (root / "Annotations" / f"{name}.xml").write_text(text)
    if lists:
        (root / "ImageSets" / "Main" / "trainval.txt").write_text("".join(f"{name}\n" for name in drawn))
        (root / "ImageSets" / "Main" / "test.txt").write_text("b\n")
        (root / "ImageSets" / "Main" / "cat_trainval.txt").write_text("a 1\nb -1\n")  # of classification
    return root


def coco_json(drawn: dict[str, list[tuple[float, ...]]] = DRAWN, **more: object) -> dict[str, object]:
    images = [
        {"id": 7 * place, "file_name": f"{name}.jpg", "width": 20, "height": 12} for place, name in enumerate(drawn)
    ]
    marks = [
        {"image_id": 7 * place, "category_id": 3, "iscrowd": number, "bbox": [x, y, end - x, below - y]}
        for place, boxes in enumerate(drawn.values())
        for number, (x, y, end, below) in enumerate(boxes)
    ]
    return {"images": images, "annotations": marks, "categories": [{"id": 3, "name": "cat"}], **more}


def coco(root: Path, *, images: str = "train2014") -> Path:
    for name in DRAWN:
        picture(root / images / f"{name}.jpg")
    (root / "annotations").mkdir()
    (root / "annotations" / "instances_train2014.json").write_text(json.dumps(coco_json()))
    return root


def table(root: Path, text: str, *, name: str = "boxes.csv") -> Path:
    for each in DRAWN:
        picture(root / f"{each}.jpg")
    (root / name).write_text(text)
    return root


ROWS = "path,x0,y0,x1,y1,label\na.jpg,2,3,10,8,cat\nb.jpg,0,0,20,12,cat\nb.jpg,4,4,6,6,cat\n"


def masks(root: Path) -> Path:
    """Masks of numbers, in which each box is of a class of its own."""
    for name, boxes in DRAWN.items():
        picture(root / "images" / f"{name}.jpg")
        mask = numpy.zeros((12, 20), dtype=numpy.uint8)
        for number, (left, top, right, bottom) in enumerate(boxes, start=1):
            mask[top:bottom, left:right] = number
        (root / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(root / "masks" / f"{name}.png")
    return root


def as_written(data: Path | str, **how: str) -> dict[str, list[tuple[float, ...]]]:
    found = open_boxes(str(data), **how)
    assert [found.read(index).shape for index in range(len(found))] == [(3, 12, 20)] * len(found)
    return {one.image.stem: [tuple(box) for box in one.boxes.tolist()] for one in found.marks}


def test_every_layout_holds_the_same_boxes(tmp_path: Path) -> None:
    json_lines = "".join(
        json.dumps({"file": f"{name}.jpg", "left": box[0], "top": box[1], "right": box[2], "bottom": box[3]}) + "\n"
        for name, boxes in DRAWN.items()
        for box in boxes
    )
    places = [
        voc(tmp_path / "voc"),
        voc(tmp_path / "bare", lists=False),
        coco(tmp_path / "coco"),
        coco(tmp_path / "inside", images="images/train2014"),
        table(tmp_path / "csv", ROWS),
        table(tmp_path / "lines", json_lines, name="boxes.jsonl"),
        table(tmp_path / "json", json.dumps(coco_json()), name="boxes.json"),
        table(tmp_path / "exported", json.dumps(coco_json()), name="_annotations.coco.json"),
        masks(tmp_path / "masks"),
    ]
    files = [places[4] / "boxes.csv", places[6] / "boxes.json"]
    assert [as_written(place) for place in (*places, *files)] == [DRAWN] * 11


def test_names_crowds_and_what_is_difficult_are_kept(tmp_path: Path) -> None:
    published, of_coco = open_boxes(str(voc(tmp_path / "voc"))), open_boxes(str(coco(tmp_path / "coco")))
    assert published.marks[1].names == of_coco.marks[1].names == ("cat", "cat")
    assert published.marks[1].difficult.tolist() == of_coco.marks[1].crowd.tolist() == [False, True]
    assert not published.marks[1].crowd.any()
    assert open_boxes(str(masks(tmp_path / "masks"))).marks[1].names == ("1", "2")


def test_a_split_is_asked_for_by_its_name_or_preferred(tmp_path: Path) -> None:
    root = voc(tmp_path / "voc")
    assert list(as_written(root, split="test")) == ["b"]
    assert len(open_boxes(str(root), prefers=("20k", "trainval"))) == 2
    with pytest.raises(UserError, match="unknown split of .*'tset'; did you mean 'test'"):
        open_boxes(str(root), split="tset")
    with pytest.raises(UserError, match="has no splits"):
        open_boxes(str(table(tmp_path / "csv", ROWS)), split="val")


def test_lists_of_voc_are_splits_but_those_of_a_class(tmp_path: Path) -> None:
    root = voc(tmp_path)
    (root / "ImageSets" / "Main" / "my_val.txt").write_text("b\n")
    assert box_splits(str(root)) == ["trainval", "test", "my_val"]
    assert list(as_written(root, split="my_val")) == ["b"]


@pytest.mark.parametrize("said", ["C:\\photos\\b.jpg", "/home/me/b.jpg", "b", ""])
def test_an_image_of_voc_is_that_of_its_file_if_it_is_not_where_that_says(tmp_path: Path, said: str) -> None:
    root = voc(tmp_path)
    file = root / "Annotations" / "b.xml"
    file.write_text(file.read_text().replace("<filename>b.jpg<", f"<filename>{said}<"))
    (root / "JPEGImages" / "b.jpg").rename(root / "JPEGImages" / "b.JPG")
    assert as_written(root, split="trainval") == DRAWN


def test_folders_of_splits_have_a_table_each(tmp_path: Path) -> None:
    table(tmp_path / "training", ROWS)
    table(tmp_path / "val", json.dumps(coco_json()), name="boxes.json")
    assert as_written(tmp_path) == as_written(tmp_path, split="val") == DRAWN
    assert open_boxes(str(tmp_path)).marks[0].image.parent.name == "training"


def test_of_two_layouts_in_a_folder_it_is_said_which_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = coco(tmp_path, images="images/train2014")
    as_written(root)
    assert not capsys.readouterr().err
    for name in DRAWN:
        (root / "labels" / "train2014").mkdir(parents=True, exist_ok=True)
        (root / "labels" / "train2014" / f"{name}.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    as_written(root)
    assert capsys.readouterr().err.splitlines() == [
        f"{root} is read as COCO, not as YOLO, also there; give each a folder of its own"
    ]
    say_once.cache_clear()
    as_written(table(root, ROWS))
    assert f"{root} is read as a table, not as COCO or YOLO, also there" in capsys.readouterr().err
    as_written(table(masks(tmp_path / "masks"), ROWS))
    assert "is read as a table, not as images and masks, also there" in capsys.readouterr().err


def test_of_the_years_of_voc_in_a_folder_one_is_given(tmp_path: Path) -> None:
    voc(tmp_path / "VOCdevkit" / "VOC2007")
    assert as_written(tmp_path, split="trainval") == as_written(tmp_path / "VOCdevkit", split="trainval") == DRAWN
    voc(tmp_path / "VOCdevkit" / "VOC2012")
    with pytest.raises(UserError, match="holds VOC2007 and VOC2012; give the folder of one of them"):
        open_boxes(str(tmp_path / "VOCdevkit"))


def test_the_20k_of_coco_are_those_of_its_list(tmp_path: Path) -> None:
    root = coco(tmp_path)
    (root / "coco_20k_filenames.txt").write_text("train2014/b.jpg\n")
    assert list(as_written(root, split="20k")) == ["b"]
    assert list(as_written(root, split="train")) == ["a", "b"]  # by any name of the split


def test_a_row_without_numbers_is_an_image_without_boxes(tmp_path: Path) -> None:
    assert as_written(table(tmp_path, "path,x0,y0,x1,y1\na.jpg,,,,\nb.jpg,1,1,2,2\n")) == {"a": [], "b": [(1, 1, 2, 2)]}


def test_odd_boxes_are_cut_or_left_out_and_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn = {"a": [(2, 3, 2, 8), (5, 5, 4, 9), (15, 3, 26, 20.5)], "b": [(30, 2, 40, 9), (0, 0, 20.5, 12)]}
    root = table(tmp_path, json.dumps(coco_json(drawn)), name="boxes.json")
    assert as_written(root) == {"a": [(15, 3, 20, 12)], "b": [(0, 0, 20, 12)]}
    as_written(root)
    said = capsys.readouterr().err
    assert said.count("\n") == 3
    for odd, first in (
        ("without area are left out, except for AP: 2", "[2.0, 3.0, 2.0, 8.0] of image 0"),
        ("outside their image are left out, except for AP: 1", "[30.0, 2.0, 40.0, 9.0] of image 7"),
        ("beyond the border of their image are cut, except for AP: 1", "[15.0, 3.0, 26.0, 20.5] of image 0"),
    ):
        assert f"boxes of {root} {odd}, such as {first} of {root}" in said


@pytest.mark.parametrize("bad", ["nan", "inf", "many", "12;"])
def test_what_is_no_number_is_refused_with_its_place(tmp_path: Path, bad: str) -> None:
    with pytest.raises(UserError, match=r"expected numbers of pixels in row 2 of .*boxes.csv, got"):
        open_boxes(str(table(tmp_path / "csv", f"path,x0,y0,x1,y1\na.jpg,1,1,2,2\nb.jpg,0,{bad},3,4\n")))
    root = voc(tmp_path / "voc")
    file = root / "Annotations" / "b.xml"
    file.write_text(file.read_text().replace("<ymin>5</ymin>", f"<ymin>{bad}</ymin>"))
    with pytest.raises(UserError, match=r"expected numbers of pixels in every bndbox of .*b.xml, got"):
        open_boxes(str(root))


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    root = voc(tmp_path / "voc")
    (root / "Annotations" / "a.xml").write_text("<annotation>")
    with pytest.raises(UserError, match=r"a.xml is no XML: no element found"):
        open_boxes(str(root))
    for name, plain in (("list", []), ("empty", {"images": [], "annotations": []}), ("half", {"images": [{"id": 1}]})):
        with pytest.raises(UserError, match="is no list of images and boxes as COCO writes it"):
            open_boxes(str(table(tmp_path / name, json.dumps(plain), name="boxes.json")))
    with pytest.raises(UserError, match="has the columns path, x, y, w, h; expected path, x0, y0, x1, y1"):
        open_boxes(str(table(tmp_path / "xywh", "path,x,y,w,h\na.jpg,1,1,2,2\n")))


def test_an_image_that_is_missing_or_of_another_size_is_named(tmp_path: Path) -> None:
    root = coco(tmp_path)
    picture(root / "train2014" / "a.jpg", (40, 24))
    with pytest.raises(UserError, match=r"a.jpg and its boxes image 0 of .* must be of one size, got 40 x 24 and 20 x"):
        open_boxes(str(root)).read(0)
    (root / "train2014" / "b.jpg").unlink()
    with pytest.raises(UserError, match=r"expected the image .*b.jpg of image 7 of .*, which is not there"):
        open_boxes(str(root))


def test_data_without_any_box_says_what_is_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected boxes in .*: JPEGImages/ and Annotations/ \(Pascal VOC\)"):
        open_boxes(str(tmp_path))
    with pytest.raises(UserError, match="expected boxes on the images of .*, found none; draw some$"):
        open_boxes(str(table(tmp_path / "csv", "path,x0,y0,x1,y1\na.jpg,,,,\n")))
    root = voc(tmp_path / "voc", DRAWN | {"b": [(4, 4, 4, 6), (30, 4, 40, 6)]})
    with pytest.raises(UserError, match="found 2 without area or outside their image; correct them, or .*: trainval$"):
        open_boxes(str(root), split="test")
