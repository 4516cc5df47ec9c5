"""What is wrong with two splits is said before a detector is trained, in a line."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinokit.annotations.boxes import Boxed, open_boxes
from dinokit.core.messages import UserError
from dinokit.evaluation.sets.beforehand import looked_at, say_crowded
from tests.evaluation.test_detection import scenes


def opened(root: Path) -> tuple[Boxed, Boxed]:
    train, test = (open_boxes(str(root), split=split) for split in ("train", "val"))
    return train, test


def test_a_test_image_that_is_cut_or_of_another_size_is_named(tmp_path: Path) -> None:
    for count, damage in enumerate(("cut", "size")):
        root = scenes(tmp_path / damage, counts={"train": 1, "val": 2})
        (file := root / "val" / "1.png").write_bytes((root / "val" / "1.png").read_bytes())
        halves = opened(root)
        if damage == "cut":
            file.write_bytes(file.read_bytes()[:900])
        else:
            Image.fromarray(np.zeros((8, 9, 3), np.uint8)).save(file)
        assert looked_at(*halves, [0]) == 0
        with pytest.raises(UserError, match=("cannot read the image .*val/1.png", "1.png .*9 x 8 and 64 x 48")[count]):
            looked_at(*halves, [0, 1])


def test_names_are_compared_and_those_that_differ_by_case_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = scenes(tmp_path, counts={"train": 2, "val": 2})
    table, before = root / "val" / "boxes.csv", (root / "val" / "boxes.csv").read_text()
    table.write_text(before.replace("red", "Red"))
    looked_at(*opened(root), [0])
    said = "warning: nothing was learnt of Red: never found, AP 0 of each; Red and red differ by case alone\n"
    assert capsys.readouterr().err == said
    table.write_text(before.replace("red", "Red").replace("blue", "sky"))
    with pytest.raises(UserError, match="no class of val is learnt: it holds Red, sky, the training images hold blue,"):
        looked_at(*opened(root), [0])


def test_images_of_more_objects_than_queries_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, val = opened(scenes(tmp_path, counts={"train": 2, "val": 4}))  # one object on 0 and 2, two on 1 and 3
    images = [*train.marks, *val.marks[:2], *val.marks[:2]]
    say_crowded(images, queries=2)
    assert capsys.readouterr().err == ""
    say_crowded(images, queries=1)
    assert "2 images hold more objects than the 1 queries, the most 2; --queries 2 can" in capsys.readouterr().err


def test_files_are_shared_by_where_they_lie(tmp_path: Path) -> None:
    root = scenes(tmp_path, counts={"train": 3, "val": 3})
    for name in ("0.png", "2.png"):
        (root / "val" / name).unlink()
        (root / "val" / name).symlink_to(root / "train" / name)
    shutil.copy(root / "train" / "boxes.csv", root / "val")
    assert looked_at(*opened(root), [0, 1]) == 1
    assert looked_at(*opened(root), [0, 1, 2]) == 2
