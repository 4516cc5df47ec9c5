"""Object discovery: a box that stands out is found and counted, and an interruption changes nothing."""

import json
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

from dinokit.core.messages import UserError
from dinokit.evaluation import base, discovery
from dinokit.evaluation.discovery import Config
from dinokit.models.features import Features
from dinokit.models.pixels import PatchPixels
from tests.conftest import MakeVit


class Colours(PatchPixels):
    """Patches of noise that the colour of their middle alone decides: what a perfect network would give."""

    calls = 0

    def flattened(self, images: torch.Tensor) -> Features:
        """Return -1 or 1 for dark and bright, beside a constant."""
        self.calls += 1
        found = super().flattened(images)
        bright = found.patches.mean(dim=-1, keepdim=True).sub(0.5).sign()
        patches = torch.cat([bright, torch.full_like(bright, 0.1)], dim=-1)
        return Features(patches.mean(dim=1), patches[:, :0], patches, found.grid)


def boxes(root: Path, *, count: int = 4, wrong: int = 1, size: tuple[int, int] = (38, 26)) -> Path:
    """Write images with a bright square on the grid of 4 px patches, of which `wrong` are said to be elsewhere."""
    root.mkdir()
    rows = ["path,x0,y0,x1,y1"]
    for number in range(count):
        # 38 x 26 are padded to 40 x 28, a pixel on each side
        left, top = 3 + 4 * number, 7
        values = numpy.random.default_rng(number).integers(0, 60, (size[1], size[0], 3))
        values[top : top + 12, left : left + 8] += 180
        Image.fromarray(values.astype(numpy.uint8)).save(root / f"{number}.png")
        place = (left, top, left + 8, top + 12) if number >= wrong else (0, 0, 3, 3)
        rows.append(",".join(map(str, (f"{number}.png", *place))))
    (root / "boxes.csv").write_text("\n".join(rows) + "\n")
    return root


def test_objects_that_stand_out_are_found_exactly(tmp_path: Path) -> None:
    data, out = boxes(tmp_path / "data"), tmp_path / "out"
    numbers = base.measure("discovery", Colours(patch_size=4), Config(data=str(data)), out)
    assert numbers["CorLoc"] == 75.0
    assert numbers["images"] == 4
    assert numbers["tau"] == 0.0  # all are equally good: the first
    lines = [json.loads(line) for line in (out / "boxes.jsonl").read_text().splitlines()]
    assert [line["boxes"][4] for line in lines] == [[3 + 4 * n, 7, 11 + 4 * n, 19] for n in range(4)]
    assert len(list(out.glob("*.png"))) == 4
    low, high = json.loads((out / "discovery.json").read_text())["intervals"]["CorLoc"]
    assert low < 75 < high


def test_a_box_is_of_the_image_itself_whatever_size_is_seen(tmp_path: Path) -> None:
    data, out = boxes(tmp_path / "data"), tmp_path / "out"
    assert base.measure("discovery", Colours(patch_size=4), Config(data=str(data), size=52), out)["CorLoc"] == 75.0
    line = json.loads((out / "boxes.jsonl").read_text().splitlines()[1])
    assert line["boxes"][4] == pytest.approx([7, 7, 15, 19], abs=2)  # a patch is 2 pixels


def test_the_tau_that_is_best_on_the_images_counts(tmp_path: Path, make_vit: MakeVit) -> None:
    data = boxes(tmp_path / "data", count=6, wrong=0)
    numbers = base.measure("discovery", make_vit(), Config(data=str(data), tau=(0.4, -0.5, 0.1)))
    each = {tau: numbers[f"CorLoc@{tau:g}"] for tau in (-0.5, 0.1, 0.4)}
    assert numbers["CorLoc"] == max(each.values()) == each[numbers["tau"]]


def test_what_was_found_before_a_kill_is_kept_and_the_rest_is_the_same(tmp_path: Path) -> None:
    data, whole, cut = boxes(tmp_path / "data"), tmp_path / "whole", tmp_path / "cut"
    config = Config(data=str(data))
    base.measure("discovery", Colours(patch_size=4), config, whole)
    lines = (whole / "boxes.jsonl").read_text().splitlines(keepends=True)
    cut.mkdir()
    (cut / "boxes.jsonl").write_text(lines[2] + lines[0] + lines[3][:40])  # killed while it wrote
    again = Colours(patch_size=4)
    base.measure("discovery", again, config, cut)
    assert again.calls == 2
    for name in ("discovery.json", "boxes.jsonl", "000001.png"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes()


def test_an_image_or_a_setting_that_changed_is_computed_anew(tmp_path: Path) -> None:
    data, out = boxes(tmp_path / "data"), tmp_path / "out"
    base.measure("discovery", Colours(patch_size=4), Config(data=str(data)), out)
    Image.new("RGB", (38, 26)).save(data / "1.png")
    again = Colours(patch_size=4)
    assert base.measure("discovery", again, Config(data=str(data)), out)["CorLoc"] == 50.0
    assert again.calls == 1
    base.measure("discovery", again, Config(data=str(data), tau=(0.2,)), out)
    assert again.calls == 5


def test_images_without_boxes_do_not_count_and_a_limit_is_evenly_spaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = boxes(tmp_path / "data", count=5)
    Image.new("RGB", (38, 26)).save(data / "empty.png")
    with (data / "boxes.csv").open("a") as file:
        file.write("empty.png,,,,\n")
    assert base.measure("discovery", Colours(patch_size=4), Config(data=str(data)))["images"] == 5
    assert "1 of 6 images" in capsys.readouterr().err
    numbers = base.measure("discovery", Colours(patch_size=4), Config(data=str(data), limit=2))
    assert (numbers["images"], numbers["CorLoc"]) == (2, 50.0)


def test_an_image_of_too_many_patches_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "MOST", 20)
    data = boxes(tmp_path / "data")
    with pytest.raises(UserError, match=r"0.png has 70 patches, of which 20 can be cut; give --size 12"):
        base.measure("discovery", Colours(patch_size=4), Config(data=str(data)))
    assert base.measure("discovery", Colours(patch_size=4), Config(data=str(data), size=12))["images"] == 4


def test_crowds_are_no_objects(tmp_path: Path) -> None:
    data = boxes(tmp_path / "data", count=1, wrong=0)
    mark = {"image_id": 0, "bbox": [3, 7, 8, 12], "iscrowd": 1}
    image = {"id": 0, "file_name": "0.png", "width": 38, "height": 26}
    (data / "boxes.csv").unlink()
    (data / "boxes.json").write_text(json.dumps({"images": [image], "annotations": [mark]}))
    with pytest.raises(UserError, match="found crowds alone"):
        base.measure("discovery", Colours(patch_size=4), Config(data=str(data)))
    mark = mark | {"iscrowd": 0}
    (data / "boxes.json").write_text(json.dumps({"images": [image], "annotations": [mark]}))
    assert base.measure("discovery", Colours(patch_size=4), Config(data=str(data)))["CorLoc"] == 100.0
