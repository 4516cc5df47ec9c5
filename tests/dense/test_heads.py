"""Trained heads: what is kept comes back, and what is written belongs to a head and its images."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

from dinokit.core.files import digest_of_model, digest_of_weights
from dinokit.core.messages import UserError
from dinokit.dense.foreground import Config as ForegroundConfig
from dinokit.dense.foreground import ForegroundHead, median
from dinokit.dense.heads import About, apply, check_model, load_head, save_head
from dinokit.dense.segmentation import Config, LinearHead
from dinokit.images.intensity import Pixels
from dinokit.models import vit
from dinokit.models.pixels import PatchPixels
from dinokit.models.vit import VisionTransformer

MakeVit = Callable[..., VisionTransformer]
DETAILS = {"classes": ["a", "b", "c"], "colours": [[0, 0, 0], [1, 1, 1], [2, 2, 2]]}
ABOUT = About(
    task="segmentation", model="m", digest="d", layers=(0, 2), short=512, crop=512, stride=341, details=DETAILS
)


def test_a_head_comes_back_as_it_was(tmp_path: Path, make_vit: MakeVit) -> None:
    head = LinearHead(Config(width=32, outputs=3), seed=1).train()
    features = make_vit().intermediate(torch.rand(2, 3, 8, 8), 2)
    head(features)  # moves the statistics of its norm
    save_head(tmp_path / "head", head, ABOUT)
    loaded, about = load_head(tmp_path / "head")
    assert about == ABOUT
    assert torch.equal(loaded(features), head.eval()(features))
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_a_head_knows_the_model_it_belongs_to(make_vit: MakeVit) -> None:
    about = About(task="depth", model="runs/a", digest=digest_of_weights(make_vit()))
    check_model(about, make_vit(), model="runs/copy")
    with pytest.raises(UserError, match="trained on runs/a, whose weights are not those of runs/b"):
        check_model(about, make_vit(seed=1), model="runs/b")


def test_the_same_weights_with_other_heads_of_attention_are_another_model() -> None:
    """Learned positions have no shape that tells the heads: four read as two give other features."""
    config = vit.Config(patch_size=4, dim=16, depth=1, heads=2, ffn_hidden=32, position="offset", position_grid=4)
    two, four = VisionTransformer(config), VisionTransformer(replace(config, heads=4))
    assert digest_of_weights(two) == digest_of_weights(four)
    about = About(task="depth", model="runs/a", digest=digest_of_model(two))
    check_model(about, two, model="runs/a")
    with pytest.raises(UserError, match="trained on runs/a"):
        check_model(about, four, model="runs/a")
    two.pixels = Pixels(white=4095.0)
    with pytest.raises(UserError, match="trained on runs/a, whose settings or pixels are not those"):
        check_model(about, two, model="runs/a")
    early = replace(about, digest=digest_of_weights(two))  # as it was written before heads were told apart
    check_model(early, two, model="runs/a")


def test_what_is_no_head_is_a_clear_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no head \(no head.json\)"):
        load_head(tmp_path)
    save_head(tmp_path, LinearHead(Config(width=4, outputs=3)), ABOUT)
    plain = json.loads((tmp_path / "head.json").read_text())
    for change, message in (
        ({"kind": "liner"}, "did you mean 'linear'"),
        ({"strange": 1}, "does not describe a head"),
        ({"config": {"width": 5, "outputs": 3}}, "does not fit head.json"),
    ):
        (tmp_path / "head.json").write_text(json.dumps(plain | change))
        with pytest.raises(UserError, match=message):
            load_head(tmp_path)


@pytest.mark.parametrize("lacks", ["task", "digest", "layers", "kind", "config", "details"])
def test_a_head_that_lacks_a_field_is_a_clear_mistake(lacks: str, tmp_path: Path) -> None:
    save_head(tmp_path, LinearHead(Config(width=4, outputs=3)), ABOUT)
    plain = json.loads((tmp_path / "head.json").read_text())
    del plain[lacks]
    (tmp_path / "head.json").write_text(json.dumps(plain))
    with pytest.raises(UserError, match="does not describe a head"):
        load_head(tmp_path)


MakeFolder = Callable[..., Path]
BACKBONE = PatchPixels(patch_size=4)
COLOURS = [[0, 0, 0], [0, 200, 0]]


def bright(crop: int | None = None) -> tuple[LinearHead, About]:
    """A head that calls a patch class 1 if its mean is above a half."""
    head = LinearHead(Config(width=48, outputs=2, batch_norm=False)).eval().requires_grad_(False)
    head.classify.weight.copy_(torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1).expand(2, 48, 1, 1))
    head.classify.bias.copy_(torch.tensor([24.0, -24.0]))
    details = {"classes": ["dark", "light"], "colours": COLOURS}
    return head, About("segmentation", "pixels", digest_of_weights(BACKBONE), crop=crop, stride=8, details=details)


def picture(path: Path) -> None:
    pixels = numpy.zeros((24, 20, 3), dtype=numpy.uint8)
    pixels[:, 8:] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.mark.parametrize("crop", [None, 12])
def test_masks_have_the_classes_and_the_palette_of_the_head(tmp_path: Path, crop: int | None) -> None:
    picture(tmp_path / "in" / "a" / "1.png")
    assert apply(BACKBONE, *bright(crop), str(tmp_path / "in"), tmp_path / "out").images == 1
    mask = Image.open(tmp_path / "out" / "masks" / "a" / "1.png")
    values = numpy.asarray(mask)
    assert mask.mode == "P"
    assert (values[:, :7] == 0).all()
    assert (values[:, 9:] == 1).all()
    assert numpy.asarray(mask.convert("RGB"))[0, -1].tolist() == [0, 200, 0]
    overlay = numpy.asarray(Image.open(tmp_path / "out" / "overlays" / "a" / "1.png"))
    assert overlay[0, -1].tolist() == [128, 228, 128]
    legend = numpy.asarray(Image.open(tmp_path / "out" / "legend.png")).reshape(-1, 3)
    assert all((legend == colour).all(1).any() for colour in COLOURS)


def test_what_is_written_is_not_computed_again_and_bad_images_are_listed(tmp_path: Path) -> None:
    for name in ("1.png", "1.jpg", "2.png"):
        picture(tmp_path / "in" / name)
    (tmp_path / "in" / "3.png").write_bytes(b"")
    first = apply(BACKBONE, *bright(), str(tmp_path / "in"), tmp_path / "out")
    assert (first.images, first.there, len(first.bad)) == (3, 0, 1)
    masks = tmp_path / "out" / "masks"
    assert sorted(path.name for path in masks.iterdir()) == ["1.jpg.png", "1.png.png", "2.png"]
    (masks / "2.png").unlink()
    kept = (masks / "1.png.png").stat().st_mtime_ns
    again = apply(BACKBONE, *bright(), str(tmp_path / "in"), tmp_path / "out")
    assert (again.images, again.there) == (1, 2)
    assert (masks / "1.png.png").stat().st_mtime_ns == kept
    with pytest.raises(UserError, match="was made with other head"):
        apply(BACKBONE, *bright(12), str(tmp_path / "in"), tmp_path / "out")


def test_probabilities_are_written_as_gray(tmp_path: Path) -> None:
    picture(tmp_path / "in" / "1.png")
    head = ForegroundHead(ForegroundConfig(width=48)).eval().requires_grad_(False)
    head.linear.weight.fill_(1.0)
    head.linear.bias.fill_(-24.0)
    apply(BACKBONE, head, About("foreground", "pixels", ""), str(tmp_path / "in"), tmp_path / "out")
    values = numpy.asarray(Image.open(tmp_path / "out" / "probabilities" / "1.png"))
    assert values[12, 0] == 0
    assert values[12, 16] == 255


def test_a_median_removes_single_patches() -> None:
    maps = torch.zeros(1, 1, 5, 5)
    maps[0, 0, 2, 2] = 1
    assert not median(maps).any()
    maps[0, 0, 1:4, 1:4] = 1
    assert median(maps)[0, 0, 2, 2] == 1


def test_a_head_of_an_unknown_task_is_a_clear_mistake(tmp_path: Path) -> None:
    head, _ = bright()
    with pytest.raises(UserError, match="known are: attentive, depth, detection, foreground, linear, segmentation"):
        apply(BACKBONE, head, About("x", "pixels", ""), str(tmp_path), tmp_path / "out")


def test_every_image_has_pictures_of_its_own(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg", "a.jpg.webp", "b/c.png"):
        picture(tmp_path / "in" / name)
    assert apply(BACKBONE, *bright(), str(tmp_path / "in"), tmp_path / "out").images == 4
    masks = tmp_path / "out" / "masks"
    found = sorted(path.relative_to(masks).as_posix() for path in masks.rglob("*.png"))
    assert found == ["a.jpg.png", "a.jpg.webp.png", "a.png.png", "b/c.png"]


def test_an_image_that_was_replaced_is_seen_anew(tmp_path: Path) -> None:
    picture(tmp_path / "in" / "1.png")
    picture(tmp_path / "in" / "2.png")
    apply(BACKBONE, *bright(), str(tmp_path / "in"), tmp_path / "out")
    Image.new("RGB", (20, 24)).save(tmp_path / "in" / "1.png")
    again = apply(BACKBONE, *bright(), str(tmp_path / "in"), tmp_path / "out")
    assert (again.images, again.there) == (1, 1)
    assert not numpy.asarray(Image.open(tmp_path / "out" / "masks" / "1.png")).any()


@pytest.mark.parametrize("content", ["[1]", "null", '{"data": 3}', "no json"])
def test_a_note_that_is_something_else_is_a_clear_mistake(content: str, tmp_path: Path) -> None:
    picture(tmp_path / "in" / "1.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "predict.json").write_text(content)
    with pytest.raises(UserError, match="out was made with other|is no JSON"):
        apply(BACKBONE, *bright(), str(tmp_path / "in"), tmp_path / "out")


def test_a_gray_model_is_drawn_on_the_picture_itself(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.new("RGB", (8, 8), (200, 0, 0)).save(tmp_path / "in" / "1.png")
    backbone = PatchPixels(patch_size=4, channels=1)
    head = LinearHead(Config(width=16, outputs=2, batch_norm=False)).eval().requires_grad_(False)
    head.classify.weight.zero_()
    about = About("segmentation", "pixels", "", details={"classes": ["0", "1"], "colours": COLOURS})
    apply(backbone, head, about, str(tmp_path / "in"), tmp_path / "out")
    assert numpy.asarray(Image.open(tmp_path / "out" / "overlays" / "1.png"))[0, 0].tolist() == [100, 0, 0]
