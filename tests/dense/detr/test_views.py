"""What a detector is shown: windows stitched are the whole, mirrors are mirrors, and any picture has a view."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dinokit.dense.detr.recipe import RECIPES
from dinokit.dense.detr.views import View, _folded, features, layers_of, passes, width_of
from dinokit.images.intensity import normalised
from dinokit.models.architecture import build
from dinokit.models.convnets import ConvNeXtConfig
from dinokit.models.pixels import PatchPixels
from tests.conftest import MakeVit


def picture(height: int, width: int) -> Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(height))


@pytest.mark.parametrize("sides", [(36, 36), (36, 60), (40, 52), (8, 44), (4, 4), (20, 4)])
def test_windows_put_together_are_the_whole_where_a_patch_sees_itself_alone(sides: tuple[int, int]) -> None:
    backbone, image = PatchPixels(patch_size=4), picture(*sides)
    whole = features(backbone, image, View(size=min(sides)))
    stitched = features(backbone, image, View(size=min(sides), windows=3))
    assert stitched.shape == (2 * backbone.dim, *whole.shape[1:])
    assert torch.equal(stitched[: backbone.dim], whole)


def test_every_window_is_seen_alone_and_stands_where_it_was_cut(make_vit: MakeVit) -> None:
    backbone, image = make_vit(size=None), picture(40, 52)
    found = features(backbone, image, View(size=40, windows=3))
    width = found.shape[0] // 2
    # 40 // 3 = 13 and 52 // 3 = 17 pixels are 4 and 5 whole patches; the last ones are what is left
    for rows in (slice(0, 16), slice(16, 32), slice(32, 40)):
        for columns in (slice(0, 20), slice(20, 40), slice(40, 52)):
            cut = image[:, rows, columns]
            alone = features(backbone, cut, View(size=min(cut.shape[1:])))
            down, across = (slice(each.start // 4, each.stop // 4) for each in (rows, columns))
            assert torch.equal(found[:width, down, across], alone)


def test_behind_the_windows_stands_the_whole_at_the_size_of_one() -> None:
    backbone = PatchPixels(patch_size=4)
    ramp = torch.linspace(0, 1, 48).expand(3, 48, 48).contiguous()
    found = features(backbone, ramp, View(size=48, windows=3))[backbone.dim :]
    across = found.mean(dim=(0, 1))  # [column]: as the ramp goes, at a third of its detail
    torch.testing.assert_close(across[2:-2], torch.linspace(0, 1, 48).unfold(0, 4, 4).mean(1)[2:-2], atol=0.02, rtol=0)
    assert (across.diff() >= 0).all()


def test_the_passes_of_a_view_are_those_of_the_network(make_vit: MakeVit) -> None:
    backbone, seen = make_vit(size=None), list[tuple[int, int]]()
    usual = backbone.intermediate

    def noted(images: Tensor, *arguments: object, **named: object) -> object:
        seen.append((images.shape[2], images.shape[3]))
        return usual(images, *arguments, **named)  # type: ignore[arg-type]

    backbone.intermediate = noted  # type: ignore[method-assign, assignment]
    for windows in (1, 2, 3):
        seen.clear()
        features(backbone, picture(40, 52), View(size=40, windows=windows))
        assert seen == passes(40, 52, windows=windows, patch=4)


def test_the_mirror_of_a_mirrored_picture_is_the_picture(make_vit: MakeVit) -> None:
    backbone, image = make_vit(size=None), picture(24, 36)
    for windows in (1, 2):
        view = View(size=24, windows=windows)
        assert torch.equal(features(backbone, image.flip(-1), view, mirror=True), features(backbone, image, view))


@pytest.mark.parametrize("sides", [(1, 1), (1, 50), (50, 1), (3, 2), (17, 200)])
@pytest.mark.parametrize("view", [View(size=8), View(size=8, longest=20), View(size=12, windows=3)])
def test_any_picture_has_a_view_of_whole_patches(sides: tuple[int, int], view: View, make_vit: MakeVit) -> None:
    backbone = make_vit(size=None)
    height, width = view.sides(*sides, 4)
    found = features(backbone, picture(*sides), view)
    assert found.shape == (width_of(backbone, view), height // 4, width // 4)
    assert found.isfinite().all()
    if view.longest is not None:
        assert max(height, width) <= 20


def test_of_a_convolutional_network_the_last_grid_is_shown() -> None:
    backbone = build(ConvNeXtConfig(dims=(4, 6, 8, 10), depths=(1, 1, 1, 1))).eval()
    view = View(size=64)
    assert (layers_of(backbone, view), width_of(backbone, view), backbone.patch_size) == (1, 10, 32)
    assert features(backbone, picture(64, 90), view).shape == (10, 2, 3)


def test_fours_of_a_finer_stage_become_a_place_of_the_last() -> None:
    backbone, view = build(ConvNeXtConfig(dims=(4, 6, 8, 10), depths=(1, 1, 1, 1))).eval(), View(size=64, stages=2)
    found, image = features(backbone, picture(64, 96), view), normalised(picture(64, 96)[None], backbone.pixels)
    assert found.shape == (width_of(backbone, view), 2, 3) == (4 * 8 + 10, 2, 3)
    with torch.no_grad():
        finer, last = (layer.maps[0] for layer in backbone.intermediate(image, 2))  # [8, 4, 6] and [10, 2, 3]
    for row, column in ((0, 0), (1, 2)):
        four = finer[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] / finer.square().mean().sqrt()
        torch.testing.assert_close(found[:32, row, column], four.flatten(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found[32:], last / last.square().mean().sqrt(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.square().sum(dim=0).mean(), torch.tensor(4 * 8.0 + 10))


@pytest.mark.parametrize("finer", [(6, 14), (7, 13), (5, 15)])
def test_a_finer_stage_of_a_network_without_padding_is_brought_to_whole_fours(finer: tuple[int, int]) -> None:
    last = torch.randn(1, 6, 3, 7)
    found = _folded([torch.ones(1, 4, *finer), last])
    assert found.shape == (1, 4 * 4 + 6, 3, 7)
    torch.testing.assert_close(found[:, :16], torch.ones(1, 16, 3, 7))


@pytest.mark.parametrize(("view", "side"), [(View(size=96, stages=2), 96), (View(size=192, stages=2, windows=2), 96)])
def test_the_width_is_found_at_the_size_that_the_network_takes(view: View, side: int) -> None:
    backbone = build(ConvNeXtConfig(dims=(4, 6, 8, 10), depths=(1, 1, 1, 1))).eval()
    usual = backbone.intermediate

    def fixed(images: Tensor, *arguments: object, **named: object) -> object:
        assert images.shape[2:] == (side, side)
        return usual(images, *arguments, **named)  # type: ignore[call-overload]

    backbone.intermediate = fixed  # type: ignore[method-assign, assignment]
    assert width_of(backbone, view) == len(features(backbone, picture(100, 100), view))


def test_stages_are_brought_to_one_size_over_each_window() -> None:
    backbone, image = build(ConvNeXtConfig(dims=(4, 6, 8, 10), depths=(1, 1, 1, 1))).eval(), picture(128, 128)
    image[:, :64, :64] *= 0.1
    wide = View(size=128, stages=2, windows=2)
    found = features(backbone, image, wide)
    assert found.shape == (width_of(backbone, wide), 4, 4)
    alone = features(backbone, image[:, :64, :64].contiguous(), replace(wide, size=64, windows=1))
    torch.testing.assert_close(found[: len(alone), :2, :2], alone)


def test_a_transformer_has_no_stages(make_vit: MakeVit) -> None:
    backbone, image = make_vit(size=None), picture(24, 36)
    assert torch.equal(features(backbone, image, View(size=24, stages=2)), features(backbone, image, View(size=24)))


def test_a_view_of_one_stage_has_the_stamp_of_before() -> None:
    assert repr(View(size=64, longest=85)) == "View(size=64, longest=85, windows=1)"
    assert repr(View(size=64, stages=2)) == "View(size=64, longest=None, windows=1, stages=2)"


def test_a_view_of_several_stages_is_of_a_transformer_what_it_always_was(make_vit: MakeVit) -> None:
    """Folders of before go on."""
    view, shrinking = RECIPES["few"].view, build(ConvNeXtConfig(dims=(4, 6, 8, 10), depths=(1, 1, 1, 1)))
    assert view.of(shrinking) == view == View(**view.plain())
    own = view.of(make_vit(size=None))
    assert repr(own) == "View(size=512, longest=683, windows=1)"
    assert own.plain() == {"size": 512, "longest": 683, "windows": 1}


def test_a_recipe_at_another_size_keeps_its_shares() -> None:
    published = RECIPES["dinov3"]
    small = published.at(96)
    assert (small.view.size, small.view.windows, small.shortest) == (96, 3, 58)  # 1,228 of 2,048 pixels
    assert small.tested == (72, 81, 90, 99, 108, 117, 126, 135)
    assert published.at(2048) == published
    assert RECIPES["small"].at(96).view == View(size=96, longest=128)


def test_the_published_recipe_is_that_of_the_paper() -> None:
    """DINOv3 (arXiv:2508.10104), appendix D.9: the last stage, on COCO."""
    recipe = RECIPES["dinov3"]
    rate, steps = [recipe.lr * recipe.training.factor(step) for step in (1000, 2000, 29_000, 44_357)], 44_358
    assert rate == pytest.approx([1.25e-5, 2.5e-5, 2.5e-5, 2.5e-6], rel=1e-3)
    assert recipe.training.iterations == steps == round(12 * 118_287 / recipe.batch_size)
    assert (recipe.queries, recipe.many, recipe.repeats, recipe.dim, recipe.hidden) == (1500, 1500, 6, 768, 2048)
    assert (recipe.encoder, recipe.decoder, recipe.shortest) == (6, 6, 1228)
    assert (recipe.view.size, recipe.view.windows) == (2048, 3)
    assert recipe.view.sides(480, 640, 16) == (2048, 2736)
    assert recipe.view.sides(1, 5000, 16) == (16, 16_384)  # a strip is bounded
    assert (recipe.weights.kind, recipe.weights.classes, recipe.weights.deltas, recipe.weights.boxes) == (
        "ia-bce",
        2.0,
        1.0,
        4.0,
    )
    assert recipe.training.weight_decay == 0.05
    assert len(recipe.tested) == 8
