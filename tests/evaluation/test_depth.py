"""Depth: sets as published, protocols on a made-up folder, saved heads elsewhere, and the command line."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import OpenEXR
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from dinokit.annotations.depths import open_depths, splits_of
from dinokit.checkpoints.store import header
from dinokit.cli import run as command
from dinokit.core.messages import UserError
from dinokit.dense.depth import LinearDepth, units
from dinokit.dense.depth_lesson import crop, seen
from dinokit.dense.heads import apply, load_head, save_head
from dinokit.dense.maps import Windows, frozen, predictor, prepared, slide
from dinokit.evaluation import base
from dinokit.evaluation.depth import Config, layers_of
from dinokit.images.intensity import Pixels
from dinokit.models.pixels import PatchPixels
from dinokit.models.vit import VisionTransformer
from dinokit.sources.source import open_source
from tests.vits import ARCHITECTURE

run = partial(base.measure, "depth")

MakeVit = Callable[..., VisionTransformer]
PIXELS = PatchPixels(patch_size=4)
QUICK: dict[str, Any] = {"iterations": 40, "warmup": 2, "batch_size": 2, "lr": (0.03,), "high": 8.0}
LINEAR: dict[str, Any] = QUICK | {"protocol": "linear"}


def bright_is_far(root: Path, *, images: int = 3, suffix: str = "png") -> Path:
    """Write pairs whose depth is 1 to 5 m by the brightness of blocks of 8 pixels."""
    draw = numpy.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("images", "depth"):
            (root / split / name).mkdir(parents=True)
        for index in range(images):
            light = draw.integers(0, 3, (3, 4)).repeat(8, 0).repeat(8, 1)
            Image.fromarray((light * 120).astype(numpy.uint8)).save(root / split / "images" / f"{index}.png")
            metres = 1 + 2.0 * light
            place = root / split / "depth" / f"{index}.{suffix}"
            if suffix == "npy":
                numpy.save(place, metres.astype(numpy.float32))
            else:
                Image.fromarray((1000 * metres).astype(numpy.uint16)).save(place)
    return root


@pytest.mark.parametrize(
    "protocol", [*(pytest.param(one, marks=pytest.mark.slow) for one in ("linear", "linear-v2")), "quick"]
)
def test_what_brightness_tells_is_learnt(protocol: str, tmp_path: Path) -> None:
    # the first hundred steps only find the mean
    quick = QUICK | {"iterations": 220, "lr": (0.3 if protocol == "linear-v2" else 0.03,)}
    result = run(PIXELS, Config(data=str(bright_is_far(tmp_path)), protocol=protocol, **quick))  # type: ignore[arg-type]
    assert result["RMSE"] < 1.1, result  # the mean alone: 1.6; bilinear values round the corners of blocks
    assert result["images"] == 3


def deep(seed: int = 0) -> VisionTransformer:
    backbone = VisionTransformer(replace(ARCHITECTURE, depth=4), seed=seed).eval()
    backbone.pixels = Pixels(size=16)
    return backbone


# a dpt learns in dense/test_depth as well
@pytest.mark.parametrize("protocol", ["linear4", pytest.param("dpt", marks=pytest.mark.slow)])
def test_four_layers_are_read_and_the_head_is_used_again(protocol: str, tmp_path: Path, make_vit: MakeVit) -> None:
    backbone, data = deep(), str(bright_is_far(tmp_path / "data"))
    config = Config(data=data, protocol=protocol, limit=1, **QUICK | {"iterations": 1})  # type: ignore[arg-type]
    result = run(backbone, config, tmp_path / "out")
    assert run(backbone, config, tmp_path / "out") == result  # continued at its end
    _, about = load_head(tmp_path / "out" / "head")
    assert (about.task, about.layers, about.details["high"]) == ("depth", (0, 1, 2, 3), 8.0)
    again = run(backbone, Config(data=data, head=str(tmp_path / "out" / "head"), high=8.0, limit=1))
    assert again == {name: value for name, value in result.items() if name != "lr"}
    with pytest.raises(UserError, match="whose weights are not those of"):
        run(deep(seed=1), Config(data=data, head=str(tmp_path / "out" / "head")))
    with pytest.raises(UserError, match="reads four layers of one grid, the model has 2 blocks"):
        run(make_vit(), config)


def test_the_16_bit_picture_is_the_depth_to_half_a_step(tmp_path: Path, make_vit: MakeVit) -> None:
    backbone, data = make_vit(), bright_is_far(tmp_path / "data")
    run(backbone, Config(data=str(data), tile=16, **LINEAR | {"iterations": 3}), tmp_path / "out")
    head, about = load_head(tmp_path / "out" / "head")
    assert (about.crop, about.stride) == (16, 10)
    images = data / "val" / "images"
    apply(backbone, head, about, str(images), tmp_path / "pictures")
    with Image.open(tmp_path / "pictures" / "depth" / "0.png") as picture:
        written = numpy.asarray(picture)
    assert written.dtype == numpy.uint16
    for name, width in (("colours/0.png", 32), ("legend.png", 360)):
        with Image.open(tmp_path / "pictures" / name) as picture:
            assert picture.size[0] == width
    with frozen(backbone):
        seen = prepared(open_source(str(images)).read(0), backbone)
        values = slide(seen, predictor(backbone, head), Windows(16, 10))[0, 0]
    assert numpy.abs(written / 1000 - values.numpy()).max() <= 0.0005 + 1e-6
    assert (units(10.0), units(80.0), units(600.0)) == (1000.0, 256.0, 100.0)


def test_depths_of_arrays_are_metres_and_nan_is_no_truth(tmp_path: Path) -> None:
    data = bright_is_far(tmp_path, suffix="npy")
    place = data / "val" / "depth" / "0.npy"
    values = numpy.load(place)
    values[0, :3] = numpy.nan, numpy.inf, -1
    numpy.save(place, values)
    _, metres = open_depths(str(data), split="val").read(0)
    assert metres[0, :3].tolist() == [0, 0, 0]
    assert set(numpy.unique(metres[1:])) <= {1, 3, 5}


@pytest.mark.parametrize("names", [("Z",), ("R", "G", "B", "Depth.V"), ("R", "G", "B")])
def test_openexr_holds_depth_in_its_channel(names: tuple[str, ...], tmp_path: Path) -> None:
    bright_is_far(tmp_path / "data", images=1)
    place = tmp_path / "data" / "train" / "depth" / "0.exr"
    place.with_suffix(".png").unlink()
    depth = numpy.linspace(0, 7, 24 * 32, dtype=numpy.float32).reshape(24, 32)
    depth[0, 0] = numpy.inf
    colours = numpy.zeros_like(depth) if "Depth.V" in names else depth
    channels = {name: colours if name in "RGB" else depth for name in names}
    OpenEXR.File({"type": OpenEXR.scanlineimage}, channels).write(str(place))
    _, metres = open_depths(str(tmp_path / "data"), split="train").read(0)
    assert numpy.array_equal(metres, numpy.where(numpy.isinf(depth), 0, depth))


def test_a_picture_in_openexr_is_no_depth(tmp_path: Path) -> None:
    bright_is_far(tmp_path / "data", images=1)
    place = tmp_path / "data" / "train" / "depth" / "0.exr"
    place.with_suffix(".png").unlink()
    channels = {name: numpy.full((24, 32), value, numpy.float32) for value, name in enumerate("RGB")}
    OpenEXR.File({"type": OpenEXR.scanlineimage}, channels).write(str(place))
    with pytest.raises(UserError, match="expected Z"):
        open_depths(str(tmp_path / "data"), split="train").read(0)
    place.write_bytes(b"no exr")
    with pytest.raises(UserError, match="cannot read the depth"):
        open_depths(str(tmp_path / "data"), split="train").read(0)


def test_training_sees_the_scale_of_the_test_and_not_its_border(tmp_path: Path) -> None:
    train = open_depths(str(bright_is_far(tmp_path, images=1)), split="train")  # 24 x 32
    train = replace(train, layout=replace(train.layout, border=(4, 20, 2, 30)))
    image, metres = seen(*train.read(0), short=48, border=train.layout.border)
    assert image.shape[1:] == metres.shape == (32, 56)
    whole = prepared(train.read(0)[0], PIXELS, short=48)[0]
    torch.testing.assert_close(image, whole[:, 8:40, 4:60])


def test_light_keeps_the_range_of_a_thermal_image(tmp_path: Path) -> None:
    data = bright_is_far(tmp_path, images=1)
    for split in ("train", "val"):
        (data / split / "images" / "0.png").unlink()
        warm = numpy.linspace(-40, 120, 24 * 32, dtype=numpy.float32).reshape(24, 32)
        Image.fromarray(warm).save(data / split / "images" / "0.tif")
    train = open_depths(str(data), split="train", channels=1)
    for position in range(8):
        image, _ = crop(*train.read(0), (24, 32), short=None, border=None, key=(0, position))
        assert 85 < float(image.max()) <= 120


def test_what_was_asked_for_is_what_a_training_goes_on_with(tmp_path: Path) -> None:
    config = Config(data=str(bright_is_far(tmp_path / "data")), **LINEAR | {"iterations": 2})
    run(PIXELS, config, tmp_path / "out")
    for other, part in ((replace(config, short=12), "settings"), (replace(config, units=500.0), "data")):
        with pytest.raises(UserError, match=f"with other {part}.*; delete it"):
            run(PIXELS, other, tmp_path / "out")


def test_a_head_answers_within_its_own_range_and_is_not_trained(tmp_path: Path) -> None:
    data = bright_is_far(tmp_path / "data")
    run(PIXELS, Config(data=str(data), **QUICK | {"high": 4.0, "iterations": 2}), tmp_path / "out")
    head = str(tmp_path / "out" / "head")
    assert run(PIXELS, Config(data=str(data), head=head)) == run(PIXELS, Config(data=str(data), head=head, high=4.0))
    loose = tmp_path / "loose"
    (data / "val").rename(loose)
    assert run(PIXELS, Config(data=str(loose), head=head))["images"] == 3
    with pytest.raises(UserError, match="lr, seed cannot be set with head"):
        Config(data=str(data), head=head, lr=(5.0,), seed=3)


def test_nothing_is_trained_on_the_test(tmp_path: Path) -> None:
    data = bright_is_far(tmp_path)
    shutil.rmtree(data / "train")
    with pytest.raises(UserError, match="found no split train"):
        run(PIXELS, Config(data=str(data), **QUICK))


def test_the_four_layers_are_the_published_ones() -> None:
    four = Config(data="", protocol="linear4")
    blocks = {12: (2, 5, 8, 11), 24: (4, 11, 17, 23), 40: (9, 19, 29, 39)}
    for depth, layers in blocks.items():
        assert layers_of(VisionTransformer(replace(ARCHITECTURE, depth=depth)), four) == layers
    assert layers_of(PIXELS, four) == (0, 1, 2, 3)


@pytest.mark.parametrize("wrong", [{"high": 0.0}, {"limit": 0}, {"warmup": -1}, {"weight_decay": -1.0}])
def test_what_cannot_be_is_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        Config(data="", **wrong)


def test_nyu_and_kitti_and_sun_as_published(tmp_path: Path) -> None:
    def pair(root: Path, name: str, size: tuple[int, int], value: int) -> None:
        for folder in ("rgb", "d"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size[::-1], (9, 9, 9)).save(root / "rgb" / f"{name}.jpg")
        Image.fromarray(numpy.full(size, value, dtype=numpy.uint16)).save(root / "d" / f"{name}.png")

    nyu, kitti, sun = (tmp_path / name for name in ("nyu", "kitti", "sun"))
    pair(nyu, "a", (48, 64), 2500)
    (nyu / "nyu_test.txt").write_text("/rgb/a.jpg /d/a.png 518.8579\n")
    assert splits_of(str(nyu)) == ("test",)
    _, metres = open_depths(str(nyu)).read(0)
    assert metres[0, 0] == 2.5
    pair(kitti, "a", (375, 1242), 2560)
    (kitti / "kitti_eigen_test.txt").write_text("rgb/a.jpg d/a.png 721.5\nrgb/b.jpg None 721.5\n")
    found = open_depths(str(kitti))
    assert len(found) == 1
    image, metres = found.read(0)
    assert image.shape[1:] == metres.shape == (352, 1216)
    assert metres[0, 0] == 10
    pair(sun, "a", (48, 64), (1234 << 3) | (1234 >> 13))
    (sun / "SUNRGBD_val_splits.txt").write_text("rgb/a.jpg d/a.png\n")
    assert open_depths(str(sun)).read(0)[1][0, 0] == pytest.approx(1.234)


def test_a_crop_keeps_image_and_depth_together(tmp_path: Path) -> None:
    train = open_depths(str(bright_is_far(tmp_path, images=1)), split="train")
    drawn = set()
    for position in range(12):
        image, metres = crop(*train.read(0), (16, 20), short=None, border=None, key=(0, position))
        assert image.shape == (3, 16, 20)
        order = torch.argsort(image[0].flatten(), stable=True)
        assert torch.all(metres.flatten()[order].diff() >= 0)  # brighter is never nearer
        drawn.add(tuple(metres[0].tolist()))
    assert len(drawn) > 3
    image, metres = crop(*train.read(0), (40, 40), short=None, border=None, key=(0, 0))
    assert image[:, 30].isnan().all()
    assert metres[30].sum() == 0


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda root: (root / "val" / "depth" / "1.png").unlink(), "expected the depth .*depth/1.png of"),
        (lambda root: Image.new("L", (3, 3)).save(root / "val" / "depth" / "1.png"), "must be of one size"),
        (lambda root: (root / "val" / "depth" / "1.png").write_bytes(b"no"), "cannot read the depth"),
        (lambda root: Image.new("RGB", (32, 24)).save(root / "val" / "depth" / "1.png"), "one number per pixel"),
    ],
)
def test_what_is_wrong_with_a_pair_is_said(tmp_path: Path, spoil: Callable[[Path], None], said: str) -> None:
    data = bright_is_far(tmp_path)
    spoil(data)
    with pytest.raises(UserError, match=said):
        found = open_depths(str(data), split="val")
        _ = [found.read(index) for index in range(len(found))]


def test_depth_from_the_command_line(tmp_path: Path, make_vit: MakeVit) -> None:
    backbone, model = make_vit(), tmp_path / "model.safetensors"
    save_file(backbone.state_dict(), model, header(backbone.config, backbone.pixels, step=0))
    data = bright_is_far(tmp_path / "data")
    words = ["evaluate", "depth", "--model", str(model), "--data", str(data), "--save", str(tmp_path / "out")]
    words += ["--out", str(tmp_path / "result.json"), "--iterations", "2", "--batch_size", "2", "--no-baselines"]
    assert command(words) == 0
    (row,) = json.loads((tmp_path / "result.json").read_text())["results"].values()
    assert {"RMSE", "AbsRel", "delta1"} <= row.keys()
    head = ["predict", "--head", str(tmp_path / "out" / "head"), "--data", str(data / "val" / "images")]
    assert command([*head, "--out", str(tmp_path / "pictures")]) == 0
    assert (tmp_path / "pictures" / "depth" / "2.png").is_file()
    again = ["evaluate", "depth", "--model", str(model), "--data", str(data), "--head", str(tmp_path / "out" / "head")]
    assert command(again) == 0  # without baselines, which the head does not fit


def _first(data: Path, split: str, change: Callable[[numpy.ndarray], numpy.ndarray]) -> None:
    """Change the depth of every image of a split."""
    for path in (data / split / "depth").iterdir():
        with Image.open(path) as image:
            values = numpy.asarray(image)
        Image.fromarray(change(values)).save(path)


@pytest.mark.parametrize("split", ["train", "val"])
def test_depths_of_which_none_counts_are_known_before_the_training(split: str, tmp_path: Path) -> None:
    data = bright_is_far(tmp_path / "data")
    _first(data, split, lambda values: 0 * values)
    with pytest.raises(UserError, match="has a depth between 0.001 and 8.0 m; look at units"):
        run(PIXELS, Config(data=str(data), **LINEAR | {"iterations": 10**6}))


def test_changed_depths_are_another_training(tmp_path: Path) -> None:
    data = bright_is_far(tmp_path / "data")
    config = Config(data=str(data), **LINEAR | {"iterations": 2})
    result = run(PIXELS, config, tmp_path / "out")
    copy = tmp_path / "copy"
    shutil.copytree(data, copy)
    assert run(PIXELS, replace(config, data=str(copy)), tmp_path / "out") == result
    _first(data, "train", lambda values: values // 3)
    with pytest.raises(UserError, match="with other data; delete it"):
        run(PIXELS, config, tmp_path / "out")


def test_a_head_of_weights_that_are_no_numbers_is_refused(tmp_path: Path) -> None:
    data = str(bright_is_far(tmp_path / "data"))
    run(PIXELS, Config(data=data, **LINEAR | {"iterations": 2}), tmp_path / "out")
    head, about = load_head(tmp_path / "out" / "head")
    assert isinstance(head, LinearDepth)
    head.regress.weight[0, 0] = torch.nan
    save_head(tmp_path / "out" / "head", head, about)
    with pytest.raises(UserError, match="weights that are not finite"):
        run(PIXELS, Config(data=data, head=str(tmp_path / "out" / "head")))
