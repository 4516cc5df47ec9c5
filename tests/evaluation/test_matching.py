"""Matching: an image finds itself, what was moved is found where it went, in pixels of images of any shape."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image
from safetensors.torch import save_file

from dinokit import cli
from dinokit.checkpoints.store import header
from dinokit.core.messages import UserError
from dinokit.evaluation import base
from dinokit.evaluation.matching import Config
from dinokit.models.features import Features
from dinokit.models.pixels import PatchPixels
from tests.conftest import MakeVit
from tests.vits import ARCHITECTURE

run = partial(base.measure, "matching")

PIXELS = PatchPixels(patch_size=4)
Row = dict[str, Any]


def texture(height: int, width: int, *, block: int = 1) -> numpy.ndarray:
    cells = numpy.random.default_rng(0).integers(0, 256, (height // block, width // block, 3), dtype=numpy.uint8)
    return cells.repeat(block, axis=0).repeat(block, axis=1)


def written(root: Path, *pairs: tuple[numpy.ndarray, numpy.ndarray, Row]) -> str:
    root.mkdir(exist_ok=True)
    lines = []
    for number, (first, second, row) in enumerate(pairs):
        for letter, image in (("a", first), ("b", second)):
            Image.fromarray(image).save(root / f"{number}{letter}.png")
        lines.append(json.dumps({"image_a": f"{number}a.png", "image_b": f"{number}b.png"} | row))
    (root / "pairs.jsonl").write_text("\n".join(lines))
    return str(root)


def moved(root: Path, *, block: int = 1) -> str:
    """Two windows of one texture, upright and flat, 4 blocks of patches apart; points at the centres of patches."""
    whole, patch = texture(40 * block, 44 * block, block=block), 4 * block
    first = whole[: 8 * patch, 3 * patch : 9 * patch]  # 8 x 6 patches
    second = whole[2 * patch : 8 * patch, patch : 9 * patch]  # 6 x 8 patches
    points = [[column, row] for column in range(6) for row in range(2, 8)]
    ends = [[column + 2, row - 2] for column, row in points]  # of patches
    centres = [[[(x + 0.5) * patch - 0.5, (y + 0.5) * patch - 0.5] for x, y in side] for side in (points, ends)]
    return written(root, (first, second, {"points_a": centres[0], "points_b": centres[1]}))


@pytest.mark.parametrize("shape", [(32, 32), (20, 32), (32, 12)])
def test_an_image_finds_itself_to_the_pixel(shape: tuple[int, int], tmp_path: Path) -> None:
    image = texture(*shape)
    points = [[x, y] for x in range(0, shape[1], 3) for y in range(0, shape[0], 3)]
    data = written(tmp_path, (image, image, {"points_a": points, "points_b": points}))
    result = run(PIXELS, Config(data=data, size=32, stride=1, alpha=(1e-3, 0.1)))
    assert result["PCK@0.001"] == result["PCK@0.1"] == 100


@pytest.mark.parametrize("block", [1, 3])
def test_a_shift_is_found_exactly_whatever_the_shape(block: int, tmp_path: Path) -> None:
    data = moved(tmp_path, block=block)  # block 3: three times as large as it is seen
    result = run(PIXELS, Config(data=data, size=32, alpha=(1e-3,)))
    assert result["PCK@0.001"] == 100
    assert (result["pairs"], result["points"]) == (1, 36)


@pytest.mark.parametrize("change", ["half", "swapped"])
def test_half_a_pixel_or_swapped_axes_are_seen(change: str, tmp_path: Path) -> None:
    data = moved(tmp_path)
    (row,) = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    first, second = (numpy.array(row[name]) for name in ("points_a", "points_b"))
    fits = second[:, 0] < 24  # where x may stand for y
    wrong = second + 0.5 if change == "half" else second[:, ::-1]
    row |= {"points_a": first[fits].tolist(), "points_b": wrong[fits].tolist()}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(row))
    assert run(PIXELS, Config(data=data, size=32, alpha=(1e-3,)))["PCK@0.001"] < 20


def test_the_reach_is_that_of_the_box_or_of_the_image(tmp_path: Path) -> None:
    image = texture(32, 32)
    wrong = {"points_a": [[13.5, 13.5]], "points_b": [[15.5, 13.5]]}  # 2 pixels off
    config = Config(data=written(tmp_path, (image, image, wrong | {"box_b": [8, 8, 18, 26]})), size=32)
    assert run(PIXELS, config)["PCK@0.1"] == 0  # 1.8
    assert run(PIXELS, replace(config, by="image"))["PCK@0.1"] == 100  # 3.2
    bare = replace(config, data=written(tmp_path / "bare", (image, image, wrong)))
    assert run(PIXELS, bare)["PCK@0.1"] == 100
    with pytest.raises(UserError, match="have no box_b"):
        run(PIXELS, replace(bare, by="box"))


def test_categories_count_alike_and_a_limit_holds_for_each(tmp_path: Path) -> None:
    image = texture(32, 32)
    good = {"points_a": [[1.5, 1.5]], "points_b": [[1.5, 1.5]]}
    bad = {"points_a": [[1.5, 1.5]], "points_b": [[29.5, 29.5]]}
    rows = [good | {"name": "cat"}, bad | {"name": "cat"}, bad | {"name": "cat"}, good | {"name": "dog"}]
    data = written(tmp_path, *((image, image, row) for row in rows))
    out = tmp_path / "out"
    assert run(PIXELS, Config(data=data, size=32), out)["PCK@0.1"] == pytest.approx((100 / 3 + 100) / 2)
    found = json.loads((out / "matching.json").read_text())
    assert found["each"]["PCK@0.1"] == {"cat": pytest.approx(100 / 3), "dog": 100}
    assert len(list(out.glob("*.png"))) == 4
    few = run(PIXELS, Config(data=data, size=32, limit=1))
    assert (few["pairs"], few["PCK@0.1"]) == (2, 100)


def test_layer_and_norm_choose_the_patches_and_the_better_norm_counts(tmp_path: Path, make_vit: MakeVit) -> None:
    draw = numpy.random.default_rng(1)
    image, backbone = texture(32, 32), make_vit(size=None)
    noisy = (image * 0.6 + draw.integers(0, 100, image.shape)).astype(numpy.uint8)
    points = [[x, y] for x in range(2, 32, 3) for y in range(2, 32, 3)]
    data = written(tmp_path, (image, noisy, {"points_a": points, "points_b": points}))
    config = Config(data=data, size=32)
    found = {
        (layer, norm): run(backbone, replace(config, layer=layer, norm=norm))["PCK@0.1"]
        for layer in (0, 1)
        for norm in (True, False)
    }
    assert len(set(found.values())) > 1
    best = run(backbone, config)
    assert best["PCK@0.1"] == max(found[1, True], found[1, False])  # the last of two blocks
    assert best["PCK@0.1"] == found[1, bool(best["norm"])]


def surfaces(root: Path, *, shift: float) -> str:
    """A flat object at 500 mm, and again with the camera moved: 8 pixels, which are 40 mm."""
    scene = root / "vase" / "wild_set"
    front, listed = texture(24, 32), []
    for index, left in enumerate((4, 12)):
        image, values = numpy.zeros((32, 60, 3), dtype=numpy.uint8), numpy.zeros((32, 60), dtype=numpy.uint16)
        image[4:28, left : left + 32], values[4:28, left : left + 32] = front, 1311
        for kind, array, ending in (("images", image, "png"), ("depth", values, "png")):
            (scene / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(scene / kind / f"{index}.{ending}")
        camera = {"q": [1, 0, 0, 0], "t": [index * shift, 0, 0], "focal_length": 100.0}
        listed.append({"filename": f"{index}.png", "image_size": [32, 60], "camera": camera})
    (scene / "annotations.json").write_text(json.dumps(listed))
    return str(root)


def test_surfaces_come_together_where_the_pose_says(tmp_path: Path) -> None:
    config = Config(data=surfaces(tmp_path / "right", shift=40), size=32)
    result = run(PIXELS, config, tmp_path / "out")
    assert result["recall"] == result["recall@1cm"] == 100
    assert (result["pairs"], result["points"]) == (1, 48)  # 6 x 8 patches, none of the padding
    assert len(list((tmp_path / "out").glob("*.png"))) == 1
    assert run(PIXELS, replace(config, keep=10))["points"] == 10
    near = run(PIXELS, Config(data=surfaces(tmp_path / "near", shift=25), size=32))  # 15 mm off
    assert [near[f"recall@{cm}cm"] for cm in (1, 2, 5)] == [0, 100, 100]
    assert near["recall"] == pytest.approx(200 / 3)


class Counted(PatchPixels):
    """Counts how often it looks."""

    looks = 0

    def intermediate(self, *args: Any, **kwargs: Any) -> tuple[Features, ...]:
        self.looks += 1
        return super().intermediate(*args, **kwargs)


def test_mistakes_are_named(tmp_path: Path) -> None:
    data = moved(tmp_path / "pairs")
    for config, said in (
        (Config(data=data, size=30), "size 30 is not a multiple of the patch size 4; use 28 or 32"),
        (Config(data=str(tmp_path / "nowhere")), "nowhere does not exist"),
        (Config(data=str(tmp_path)), "found none of these"),
        (Config(data=surfaces(tmp_path / "set", shift=1), split="val"), "NAVI has no splits"),
        (Config(data=str(tmp_path / "set"), by="box"), "by says nothing about .*: NAVI has no boxes"),
        (Config(data=data, keep=1), "keep says nothing about .*: it is of NAVI"),
    ):
        with pytest.raises(UserError, match=said):
            run(PIXELS, config)
    for wrong in ({"alpha": ()}, {"alpha": (0.0,)}, {"stride": 0}, {"layer": -1}, {"limit": 0}, {"size": 0}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            Config(data=data, **wrong)


def test_an_image_of_several_pairs_is_looked_at_once(tmp_path: Path) -> None:
    image, row = texture(32, 32), {"points_a": [[1.5, 1.5]], "points_b": [[1.5, 1.5]]}
    data = Path(written(tmp_path, (image, image, row))) / "pairs.jsonl"
    data.write_text(f"{data.read_text()}\n" * 5)
    backbone = Counted(patch_size=4)
    run(backbone, Config(data=str(data), size=32, norm=True))
    assert backbone.looks == 2


def test_the_command_measures_a_model_beside_its_baselines(
    tmp_path: Path, make_vit: MakeVit, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone, model = make_vit(), tmp_path / "model.safetensors"
    save_file(backbone.state_dict(), model, header(ARCHITECTURE, backbone.pixels, step=0))
    words = ["--model", str(model), "--data", moved(tmp_path / "pairs"), "--out", str(tmp_path / "found.json")]
    words += ["--save", str(tmp_path / "saved"), "--size", "32", "--alpha", "[0.05, 0.1]"]
    assert cli.run(["evaluate", "matching", *words]) == 0
    assert "PCK@0.05" in capsys.readouterr().out
    rows = json.loads((tmp_path / "found.json").read_text())["results"]
    assert set(rows) == {str(model), "random-init", "raw-pixels"}
    assert rows["raw-pixels"]["PCK@0.1"] == 100
    assert {path.name for path in (tmp_path / "saved").glob("[!.]*")} == {"evaluate.json", "matching.json", "00000.png"}
