"""Pictures with boxes."""

import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dinokit.visuals.boxed import HIGH, LETTER, SIGNS, _spot, figure, legend

CLASSES = ("cat", "<dog>")


@pytest.fixture
def one(tmp_path: Path) -> dict[str, Any]:
    """A picture of two objects, one of them found, the other confused; a third box is an alarm."""
    file = tmp_path / "a&b.png"
    Image.new("RGB", (200, 100), "gray").save(file)
    objects = [
        {"box": [0, 0, 100, 50], "class": 0, "state": "found"},
        {"box": [100, 50, 200, 100], "class": 1, "state": "confused"},
        {"box": [0, 80, 10, 90], "class": 1, "state": None},
    ]
    found = [
        {"box": [0, 0, 100, 40], "class": 0, "score": 0.9, "kind": "right", "about": 0, "iou": 0.8},
        {"box": [100, 50, 200, 100], "class": 0, "score": 0.6, "kind": "confused", "about": 1, "iou": 1.0},
        {"box": [0, 60, 9, 99], "class": 1, "score": 0.5, "kind": "alarm", "about": None, "iou": 0.0},
    ]
    return {"file": str(file), "size": [200, 100], "quality": 0.4, "objects": objects, "found": found}


def test_truth_and_found_stand_beside_each_other_over_one_photo(one: dict[str, Any]) -> None:
    drawn = figure(one, CLASSES, name="best 1", anchor="best-1")
    assert drawn.count("data:image/") == 1
    assert re.findall(r'<use href="#([^"]*)"', drawn) == re.findall(r'<image id="([^"]*)"', drawn) == ["best-1"]
    truth, found = drawn.split("<span>found</span>")
    assert re.findall(r'class="over (\w+)"', truth) == ["found", "taken", "crowd"]
    assert re.findall(r'class="over (\w+)"', found) == ["alarm", "confused", "right"]  # the best on top
    assert 'x="130.0" y="65.0" width="130.0" height="65.0"' in found  # 260 wide for 200 pixels
    assert "a&amp;b.png · quality 0.40 · 1 right, 1 confused, 1 false alarm" in drawn


def test_every_box_says_what_it_is_without_a_colour(one: dict[str, Any]) -> None:
    drawn = figure(one, CLASSES, name="best 1", anchor="a")
    for told in (
        "cat 0.90: right, IoU 0.80",
        "cat 0.60: confused (&lt;dog&gt;), IoU 1.00",
        "&lt;dog&gt; 0.50: false alarm",
        "&lt;dog&gt;: taken for another (cat)",
        "&lt;dog&gt;: does not count",
    ):
        assert f"<title>{told}</title>" in drawn
    assert {"✓ cat 0.90", "≠ cat 0.60", "! &lt;dog&gt; 0.50", "✓ cat", "≠ &lt;dog&gt;", "&lt;dog&gt;"} == set(
        re.findall(r"<text[^>]*>([^<]*)</text>", drawn)
    )
    signs = re.findall(r"<b>([^<]*)</b>", legend())
    assert len(signs) == len(SIGNS) - 1
    assert len(set(signs[:5])) == 5


def test_a_long_name_is_cut_in_the_picture_and_whole_on_hover(one: dict[str, Any]) -> None:
    drawn = figure(one, ("c" * 50, "dog"), name="best 1", anchor="a")
    assert f">✓ {'c' * 19}\N{HORIZONTAL ELLIPSIS} 0.90</text>" in drawn
    assert f"<title>{'c' * 50} 0.90: right" in drawn


def test_of_a_picture_that_is_gone_the_boxes_are_left(one: dict[str, Any]) -> None:
    drawn = figure(one | {"file": "nowhere/a.png"}, CLASSES, name="best 1", anchor="a")
    assert "data:image" not in drawn
    assert "<use" not in drawn
    assert "the picture cannot be read" in drawn
    assert drawn.count('class="over') == 6


def test_names_stand_inside_the_picture_and_not_on_each_other() -> None:
    spots = list[tuple[float, float, float]]()
    for _ in range(4):
        x, y = _spot(90.0, (40.0, 90.0), 5 * LETTER, (110.0, 110.0), spots)
        assert x + 5 * LETTER <= 110
        assert HIGH - 2 <= y <= 108
        spots.append((x, y, 5 * LETTER))
    assert len({y for _, y, _ in spots}) == 4
