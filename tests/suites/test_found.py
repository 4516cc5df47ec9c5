import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dinokit.core.messages import UserError
from dinokit.suites import found
from dinokit.suites.found import Found, find
from tests.conftest import MakeFolder
from tests.evaluation.dense_data import squares
from tests.sources import instance_sets


def kinds(*data: Path | str) -> dict[str, str]:
    return {one.name: one.kind for one in find([str(each) for each in data])[0]}


def test_sets_are_told_by_what_lies_in_them(root: Path) -> None:
    squares(root / "few", splits=False)
    (root / "clips" / "JPEGImages").mkdir(parents=True)
    (root / "clips" / "Annotations").mkdir()
    (root / "points").mkdir()
    (root / "points" / "pairs.jsonl").write_text("")
    assert kinds(root) == {
        "colours": "classes",
        "twins": "instances",
        "squares": "masks",
        "few": "few masks",
        "clips": "videos",
        "points": "pairs",
    }


def test_boxes_are_found_in_every_layout(tmp_path: Path) -> None:
    for name in (
        *("coco/annotations/instances_val2017.json", "lvis/lvis_v1_val.json", "o/sketch/annotations/instances_a.json"),
        *("table/boxes.csv", "split/train/boxes.JSONL", "bare/Annotations/a.XML", "VOC2007/Annotations/a.xml"),
        *("yolo/train/images/a.jpg", "yolo/train/labels/a.txt", "darknet/a.jpg", "darknet/a.txt", "darknet/obj.names"),
        *("bare/JPEGImages/a.jpg", "clips/JPEGImages/1/a.jpg", "clips/Annotations/1/a.png"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "set.yaml").write_text("val: elsewhere\nnames: [cat]\n")
    boxes = [name for name, kind in kinds(tmp_path).items() if kind == "boxes"]
    assert sorted(boxes) == ["bare", "coco", "darknet", "given", "lvis", "sketch", "split", "table", "voc07", "yolo"]


def test_the_root_may_be_a_set_itself_and_a_source_a_word(root: Path) -> None:
    assert kinds(root / "colours") == {"colours": "classes"}
    assert kinds(root / "twins") == {"twins": "instances"}
    assert kinds(root / "squares") == {"squares": "masks"}
    assert kinds("demo:emoji", "demo:fashion") == {"emoji": "instances", "fashion": "classes"}
    with pytest.raises(UserError, match="nowhere"):
        find([str(root / "nowhere")])


def test_published_sets_are_found_by_name_and_those_for_robustness_apart(
    tmp_path: Path, make_folder: MakeFolder
) -> None:
    wnids = ("n01440764", "n01443537")
    make_folder(*(f"{wnid}/{index}.jpg" for wnid in wnids for index in range(8)), name="data/imagenet-a")
    assert kinds(tmp_path / "data") == {"imagenet-a": "robustness"}


def test_published_sets_for_retrieval_are_of_things(tmp_path: Path) -> None:
    instance_sets.oxford(tmp_path / "roxford5k")
    instance_sets.copydays(tmp_path / "copydays")
    assert kinds(tmp_path) == {"roxford5k": "instances", "copydays": "instances"}


def test_folders_of_classes_are_not_looked_into(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(found, "CROWDED", 2)
    seen = []
    look = found._dense
    monkeypatch.setattr(found, "_dense", lambda folder: seen.append(folder) or look(folder))
    assert list(found._below(root / "twins", 3)) == []
    squares(root / "twins" / "u" / "inside")
    assert "inside" not in kinds(root / "twins")
    assert root / "twins" / "u" not in seen


def test_two_sets_of_a_name_are_told_apart_by_their_place(tmp_path: Path, make_folder: MakeFolder) -> None:
    for side in ("left", "right"):
        make_folder(*(f"{thing}/{index}.png" for thing in "uvw" for index in range(8)), name=f"{side}/colours")
    names = [one.name for one in find([str(tmp_path / "left"), str(tmp_path / "right")])[0]]
    assert names == ["colours", str((tmp_path / "right" / "colours").resolve())]


def test_a_set_that_cannot_be_opened_is_one_line(root: Path) -> None:
    (root / "broken.csv").write_text("label\n1\n")
    sets, lines = find([str(root)])
    assert len(sets) == 3
    assert len(lines) == 1
    assert lines[0].startswith("broken.csv: ")


@pytest.mark.parametrize("place", [".", "squares", "colours"])
@pytest.mark.parametrize("text", ["version: 3\n", "train: [\n", "train: {share: 0.8}\n", "train: squares\n"])
def test_a_data_yaml_of_anything_else_is_a_line_and_hides_no_set(root: Path, place: str, text: str) -> None:
    before = kinds(root)
    (root / place / "data.yaml").write_text(text)
    sets, lines = find([str(root)])
    assert {one.name: one.kind for one in sets} == before
    assert len(lines) == 1
    assert "data.yaml" in lines[0]
    alone, said = find([str(root / "squares")])
    assert [(one.name, one.kind) for one in alone] == [("squares", "masks")]
    assert len(said) == (place == "squares")


def test_a_digest_follows_the_files(root: Path) -> None:
    one = Found("twins", "instances", str(root / "twins"))
    before = one.digest()
    assert one.digest() == before
    file = root / "twins" / "u" / "0.png"
    os.utime(file, (0, 0))
    assert one.digest() != before
    assert Found("emoji", "instances", "demo:emoji").digest() == "demo:emoji"


def test_links_without_an_end_and_a_damaged_set_stop_no_suite(root: Path) -> None:
    (root / "loop").symlink_to("..")
    (root / "colours" / "again").symlink_to(".")
    (root / "colours" / "nowhere").symlink_to("nothing")
    (root / "damaged").mkdir()
    (root / "damaged" / "boxes.csv").write_text("x")
    (root / "odd.tar").write_bytes(b"no archive")
    sets, lines = find([str(root)])
    assert {"colours", "twins", "squares"} <= {one.name for one in sets}
    assert len({one.source for one in sets}) == len(sets)
    assert not any("loop" in one.source for one in sets)
    assert [line.partition(":")[0] for line in lines] == ["odd.tar"]
    colours = next(one for one in sets if one.name == "colours")
    before = colours.digest()
    (root / "colours" / "nowhere").unlink()
    assert colours.digest() != before


def test_a_folder_that_cannot_be_looked_into_is_a_line(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = found._dense

    def refused(folder: Path) -> Iterator[Found]:
        if folder.name == "twins":
            raise PermissionError(13, "Permission denied", str(folder / "annotations"))
        yield from looked(folder)

    monkeypatch.setattr(found, "_dense", refused)
    sets, lines = find([str(root)])
    assert {"colours", "squares"} <= {one.name for one in sets}
    assert lines == ["twins: Permission denied"]
