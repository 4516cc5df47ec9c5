"""Features, lists of images of any sizes, and the raw-pixel backbone."""

from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image
from torch import Tensor

from dinokit.core.messages import UserError
from dinokit.images import intensity
from dinokit.images.intensity import Pixels, prepare
from dinokit.models import convnets, vit
from dinokit.models.architecture import Architecture, Network, build
from dinokit.models.features import Features
from dinokit.models.pixels import PatchPixels, RawPixels
from tests.conftest import MakeVit

ROPE = vit.Config(patch_size=16, dim=16, depth=2, heads=2, registers=2, ffn_hidden=32, layer_scale=0.5)
BACKBONES: dict[str, Architecture] = {
    "rope": ROPE,
    "offset": replace(ROPE, position="offset", position_grid=3),
    "antialias": replace(ROPE, position="antialias", position_grid=3),
    "convnext": convnets.ConvNeXtConfig(dims=(4, 6, 8, 10), depths=(1, 1, 1, 1), layer_scale=0.5),
    "resnet": convnets.ResNetConfig(width=4, depths=(1, 1, 1, 1)),
}
EVERY = pytest.mark.parametrize("name", BACKBONES)


def network(name: str) -> Network:
    return build(BACKBONES[name], seed=1).eval()


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def same(found: Features, expected: Features) -> None:
    # float32 sums in another order when the batch has another size
    for name in ("cls", "registers", "patches"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=1e-5, rtol=1e-5)
    assert found.grid == expected.grid


@EVERY
def test_each_image_of_a_list_gets_what_it_would_get_alone(name: str) -> None:
    """Sizes alternate, so that a result in the order of computing would be found out."""
    backbone = network(name)
    sizes = [(48, 64), (64, 64), (48, 64), (50, 37), (64, 64)]
    images = [noise(3, *size, seed=seed) for seed, size in enumerate(sizes)]
    results = backbone(images)
    assert [result.cls.shape for result in results] == [(backbone.dim,)] * 5
    assert (results[0].cls - results[2].cls).abs().max() > 1e-3
    for image, result in zip(images, results):
        same(result, backbone(image[None]).part(0))


@EVERY
def test_an_item_with_a_batch_axis_keeps_it(name: str) -> None:
    backbone = network(name)
    images = [noise(2, 3, 32, 48), noise(3, 32, 48, seed=1), noise(1, 3, 32, 48, seed=2), noise(3, 3, 32, 32)]
    results = backbone(images)
    assert [result.cls.ndim for result in results] == [2, 1, 2, 2]
    for image, result in zip(images, results):
        same(result, backbone(image) if image.ndim == 4 else backbone(image[None]).part(0))


def test_images_of_one_size_are_computed_together_and_hooks_see_each_batch() -> None:
    backbone, seen = network("rope"), []
    backbone.register_forward_hook(lambda _, args, output: seen.append(tuple(args[0].shape)))
    backbone([noise(3, 32, 32), noise(3, 48, 32), noise(2, 3, 32, 32), noise(3, 32, 32)])
    assert seen == [(4, 3, 32, 32), (1, 3, 48, 32)]


def test_a_tuple_of_images_and_images_of_another_precision_are_welcome() -> None:
    backbone, image = network("rope"), noise(3, 32, 32)
    single, double = backbone((image, image.double()))
    assert double.cls.dtype == torch.float32
    same(double, single)


def test_lists_that_cannot_be_embedded_are_one_clear_line() -> None:
    backbone, image = network("rope"), noise(3, 32, 32)
    with pytest.raises(UserError, match="at least one image, all of the same number of channels, got an empty list"):
        backbone([])
    with pytest.raises(UserError, match="got images of 1 and 3 channels"):
        backbone([image, image[:1]])
    with pytest.raises(UserError, match=r"\[channel, height, width\], got one of shape \[32, 32\]"):
        backbone([image, image[0]])
    with pytest.raises(UserError, match="a list of images takes no masks"):
        backbone([image], masks=torch.zeros(1, 4, dtype=torch.bool))
    with pytest.raises(UserError, match="takes 3 channels, the images have 2"):
        backbone([image[:2]])


def test_views_are_crop_major() -> None:
    images = torch.arange(6.0)[:, None]  # crop 0 of images 0, 1, 2, then crop 1 of them
    features = Features(images, images[:, None], images[:, None].expand(6, 4, 1), (2, 2)).unflatten(2)
    assert features.cls[1, 0].item() == 3
    assert features.patches.shape == (2, 3, 4, 1)
    assert torch.equal(features.flatten().cls, images)
    assert features.flatten().grid == (2, 2)


def test_maps_are_row_major() -> None:
    patches = torch.arange(6.0)[None, :, None]
    features = Features(torch.zeros(1, 1), torch.zeros(1, 0, 1), patches, (2, 3))
    assert features.maps.tolist() == [[[[0, 1, 2], [3, 4, 5]]]]


def test_the_cells_of_a_map_are_patches_and_their_mean_is_cls() -> None:
    maps = torch.arange(12.0).reshape(1, 2, 2, 3)  # two channels, two rows, three columns
    features = Features.from_maps(maps)
    assert torch.equal(features.maps, maps)
    assert features.patches[0, 4].tolist() == [4, 10]  # second row, second column
    assert features.cls.tolist() == [[2.5, 8.5]]
    assert features.registers.shape == (1, 0, 2)


def test_raw_pixels_are_the_values_themselves() -> None:
    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    backbone = RawPixels(size=4)
    features = backbone(images)
    assert torch.equal(features.cls, images.flatten(1))
    assert features.cls.shape[1] == backbone.dim
    assert torch.equal(features.patches[1, 9], images[1, :, 2, 1])  # third row, second column
    squares = PatchPixels(patch_size=2)(images).patches
    assert torch.equal(squares[1, 2], images[1, :, 2:4, 0:2].flatten())  # second row, first column
    assert backbone.pixels == Pixels((0.0,) * 3, (1.0,) * 3, 4)
    assert torch.equal(backbone.intermediate(images, 1)[0].patches, features.patches)


def test_what_raw_pixels_cannot_do_is_an_error() -> None:
    backbone, images = RawPixels(size=4), torch.zeros(1, 3, 4, 4)
    with pytest.raises(UserError, match="shape"):
        backbone(torch.zeros(1, 3, 4, 5))
    with pytest.raises(UserError, match="masked"):
        backbone(images, masks=torch.zeros(1, 16, dtype=torch.bool))


def test_pixels_need_matching_statistics() -> None:
    with pytest.raises(UserError, match="as many means as stds"):
        Pixels((0.5,), (0.5, 0.5))
    with pytest.raises(UserError, match="above 0"):
        Pixels((0.5,), (0.0,))
    with pytest.raises(UserError, match="size"):
        Pixels(size=0)


def test_pictures_become_what_evaluations_show_a_model(tmp_path: Path, make_vit: MakeVit) -> None:
    model, pixels = make_vit(size=8), torch.arange(3 * 12 * 16, dtype=torch.uint8).view(3, 12, 16)
    picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    picture.save(tmp_path / "a.png")
    expected = intensity.normalised(prepare(pixels, size=8, patch_size=4)[None] / 255, model.pixels)
    for kind in (tmp_path / "a.png", str(tmp_path / "a.png"), picture, numpy.asarray(picture), pixels, pixels / 255):
        torch.testing.assert_close(model.transform(kind), expected, atol=0.04, rtol=0)  # floats are not rounded
        assert torch.equal(model.transform([kind, kind]), model.transform(kind).repeat(2, 1, 1, 1))
    model.pixels, before = replace(model.pixels, white=4095.0), model.pixels
    deep = model.transform(numpy.full((8, 8, 1), 4095, dtype=numpy.uint16))
    assert torch.equal(deep, intensity.normalised(torch.ones(1, 3, 8, 8), before))
    model.pixels = before
    lying = picture.rotate(90, expand=True)
    lying.getexif()[0x0112] = 6  # to be turned back
    assert torch.equal(model.transform(lying), expected)
    assert model(model.transform(picture)).cls.shape == (1, model.dim)
    assert make_vit(size=None).transform(picture.resize((17, 9))).shape == (1, 3, 8, 16)


def test_pictures_that_cannot_be_shown_are_named(tmp_path: Path, make_vit: MakeVit) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    model = make_vit(size=None)
    with pytest.raises(UserError, match=r"a\.png cannot be read"):
        model.transform(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"cannot read .*b\.png: No such file"):
        model.transform(tmp_path / "b.png")
    with pytest.raises(UserError, match="of one size, got 12x16 and 8x8"):
        model.transform([torch.zeros(3, 12, 16), torch.zeros(3, 8, 8)])
