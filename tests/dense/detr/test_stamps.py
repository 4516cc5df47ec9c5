"""A digest of boxes follows from what is drawn on which image, not from how the path to it is written."""

from dataclasses import replace
from pathlib import Path

import pytest

from dinokit.annotations.boxes import open_boxes
from dinokit.dense.detr.recipe import RECIPES
from dinokit.dense.detr.stamps import digest_of_boxes
from tests.evaluation.test_detection import scenes


def test_boxes_are_the_same_from_anywhere_and_others_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = open_boxes(str(scenes(tmp_path / "data", counts={"train": 2})), split="train")
    first, second = data.marks
    known = digest_of_boxes(data)
    monkeypatch.chdir(tmp_path)
    for path in ("data", "../" + tmp_path.name + "/data/"):
        assert digest_of_boxes(open_boxes(path, split="train")) == known
    one, other = (replace(first, image=Path(path)) for path in ("pieces/0008.png", tmp_path / "pieces" / "0008.png"))
    assert digest_of_boxes(replace(data, marks=(one, second))) == digest_of_boxes(replace(data, marks=(other, second)))
    for changed in (
        replace(first, boxes=first.boxes + 1),
        replace(first, names=("green",) * len(first.names)),
        replace(first, crowd=~first.crowd),
        replace(first, image=tmp_path / "data" / "val" / first.image.name),
        one,
    ):
        assert digest_of_boxes(replace(data, marks=(changed, second))) != known


def test_of_how_many_pictures_a_recipe_makes_a_stamp_says_nothing() -> None:
    """Trainings of before go on; what is learnt from is in the digest of the boxes."""
    assert repr(replace(RECIPES["small"], pictures=9)) == repr(RECIPES["small"])
