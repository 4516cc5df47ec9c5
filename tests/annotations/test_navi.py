"""NAVI: what two cameras see of one point comes together in 3D."""

import json
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

from dinokit.annotations.navi import Surface, View, ViewPair, angles, open_view_pairs, rotation
from dinokit.core.messages import UserError

HALF = 0.5**0.5
QUARTER_Z = [HALF, 0.0, 0.0, HALF]  # 90 degrees about z


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
    (pair,) = open_view_pairs(written(tmp_path / "navi_v1", [[1, 0, 0, 0], QUARTER_Z]).parent) or []
    assert pair.name == "vase"
    surface = pair.views[0].read(3)
    assert surface.box == (5, 3, 9, 9)
    assert abs(surface.distance[4, 6] - 500) < 0.2
    assert surface.focal == 100


def test_views_from_behind_are_no_pair_and_every_fourth_counts(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="within 120 degrees"):
        open_view_pairs(written(tmp_path / "behind", [[1, 0, 0, 0], [0, 0, 1, 0]]))
    pairs = open_view_pairs(written(tmp_path / "many", [[1, 0, 0, 0]] * 9)) or []
    assert [pair.views[0].image.stem for pair in pairs] == ["000", "004", "008"]
    assert all(pair.views[0].image != pair.views[1].image for pair in pairs)
    again = open_view_pairs(tmp_path / "many") or []
    assert [pair.views[1].image for pair in again] == [pair.views[1].image for pair in pairs]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    assert open_view_pairs(tmp_path) is None
    root = written(tmp_path / "set", [[1, 0, 0, 0], QUARTER_Z])
    scene = root / "vase" / "wild_set"
    Image.fromarray(numpy.ones((12, 12), dtype=numpy.uint16)).save(scene / "depth" / "000.png")
    (pair,) = open_view_pairs(root) or []
    with pytest.raises(UserError, match="is no depth of"):
        pair.views[0].read(3)
    (scene / "depth" / "001.png").unlink()
    with pytest.raises(UserError, match=r"001\.png does not exist"):
        open_view_pairs(root)
    (scene / "annotations.json").write_text('[{"filename": "000.jpg"}]')
    with pytest.raises(UserError, match="no list of views with a camera"):
        open_view_pairs(root)
