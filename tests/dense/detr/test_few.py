"""Pieces of a few images: boxes lie where the things are, the same seed gives the same, other images are refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinokit.annotations.boxes import Boxed, open_boxes
from dinokit.core.messages import UserError
from dinokit.dense.detr import few
from dinokit.dense.detr.views import View

RED = np.array([220, 30, 30])


@pytest.fixture
def data(tmp_path: Path) -> Boxed:
    """Two grey pictures of another shape, with a red rectangle each."""
    rows = ["path,x0,y0,x1,y1,label"]
    for name, size, box in (("a", (60, 40), (10, 8, 30, 24)), ("b", (40, 50), (20, 25, 36, 45))):
        values = np.full((size[1], size[0], 3), 120, dtype=np.uint8)
        values[box[1] : box[3], box[0] : box[2]] = RED
        Image.fromarray(values).save(tmp_path / f"{name}.png")
        rows.append(f"{name}.png,{','.join(map(str, box))},red")
    (tmp_path / "boxes.csv").write_text("\n".join(rows) + "\n")
    return open_boxes(str(tmp_path))


def test_boxes_of_pieces_lie_where_the_things_are(data: Boxed, tmp_path: Path) -> None:
    found = few.more(data, tmp_path / "pieces", pictures=14, view=View(size=32), seed=0)
    assert found.marks[:2] == data.marks
    assert len(found) == 14
    assert {one.size for one in found.marks[2:]} >= {(32, 32), (48, 32)}
    for index in range(2, 14):
        image, marks = found.read(index).permute(1, 2, 0).numpy(), found.marks[index]
        assert set(marks.names) <= {"red"}
        drawn = np.zeros(image.shape[:2], bool)
        for left, top, right, bottom in marks.boxes:
            drawn[round(top) : round(bottom), round(left) : round(right)] = True
        red = np.abs(image.astype(int) - RED).max(axis=2) < 60
        assert not drawn.any() or red[drawn].mean() > 0.8
        np.testing.assert_allclose(marks.areas, (marks.boxes[:, 2:] - marks.boxes[:, :2]).prod(axis=1))


def test_pieces_follow_from_the_images_and_the_seed(data: Boxed, tmp_path: Path) -> None:
    seeds = (("one", 0), ("same", 0), ("other", 1))
    one, same, other = (
        few.more(data, tmp_path / name, pictures=5, view=View(size=32), seed=seed) for name, seed in seeds
    )
    read = [
        [file.read_bytes() for file in sorted((tmp_path / name).glob("*.png"))] for name in ("one", "same", "other")
    ]
    assert read[0] == read[1] != read[2]
    assert all(np.array_equal(a.boxes, b.boxes) for a, b in zip(one.marks, same.marks, strict=True))
    assert len(other) == 5
    with pytest.raises(UserError, match="one was made with other seed.*features and training.pt beside it"):
        few.more(data, tmp_path / "one", pictures=5, view=View(size=32), seed=1)
    many = replace(data, marks=data.marks * 3)
    assert few.more(many, tmp_path / "none", pictures=5, view=View(size=32), seed=0) == many
    assert not (tmp_path / "none").exists()


def test_what_is_planned_has_the_shapes_of_what_is_made(data: Boxed, tmp_path: Path) -> None:
    one, view = replace(data, marks=data.marks[:1]), View(size=33)
    made = few.more(one, tmp_path / "pieces", pictures=6, view=view, seed=0)
    planned = few.shapes([mark.size for mark in one.marks], pictures=6, view=view)
    seen = [
        [view.sides(height, width, 4) for width, height in sizes] for sizes in (planned, [m.size for m in made.marks])
    ]
    assert seen[0] == seen[1]
    assert len(set(seen[0])) == 2
    assert few.shapes([(60, 40)] * 7, pictures=6, view=view) == [(60, 40)] * 7


def test_pieces_of_a_strip_are_no_longer_than_is_seen(data: Boxed, tmp_path: Path) -> None:
    marks = replace(data.marks[0], image=tmp_path / "strip.png", size=(2000, 5), boxes=np.array([[100.0, 0, 140, 5]]))
    Image.new("RGB", (2000, 5)).save(tmp_path / "strip.png")
    found = few.more(
        replace(data, marks=(marks,)), tmp_path / "pieces", pictures=2, view=View(size=32, longest=64), seed=0
    )
    assert found.marks[1].size == (64, 1)


def test_pieces_of_deep_images_keep_their_values(data: Boxed, tmp_path: Path) -> None:
    for one in data.marks:
        deep = np.full((*one.size[::-1], 3), 0.25, dtype=np.float32)
        np.save(one.image.with_suffix(".npy"), deep)
    marks = tuple(replace(one, image=one.image.with_suffix(".npy")) for one in data.marks)
    found = few.more(replace(data, marks=marks), tmp_path / "pieces", pictures=3, view=View(size=32), seed=0)
    np.testing.assert_allclose(found.read(2).numpy(), 0.25, rtol=1e-5)
