from collections.abc import Callable

import pytest
import torch

from dinokit.dense import maps
from dinokit.models.dense_head import Config, LinearHead
from dinokit.models.pixels import PatchPixels
from dinokit.models.vit import VisionTransformer

MakeVit = Callable[..., VisionTransformer]


@pytest.mark.parametrize(("height", "width"), [(8, 12), (9, 7), (10, 5), (4, 4)])
def test_an_image_lies_in_the_middle_of_its_padded_twin(height: int, width: int) -> None:
    images = torch.rand(1, 3, height, width) + 1
    padded, frame = maps.pad(images, 4)
    assert padded.shape[2] % 4 == padded.shape[3] % 4 == 0
    assert padded.shape[2:] == frame.padded
    rows = padded[0, 0].sum(1).nonzero().flatten()
    assert (int(rows[0]), len(rows)) == ((-height % 4) // 2, height)
    assert torch.equal(maps.at_pixels(padded, frame), images)


def test_values_of_patches_come_back_to_the_pixels_of_their_patch() -> None:
    backbone = PatchPixels(patch_size=4)
    images = torch.zeros(1, 3, 9, 8)
    images[:, :, 3:7, :4] = 1  # padded by 1 above: the second row of patches, the first column
    (features,), frame = maps.encode(backbone, images)
    values = maps.at_pixels(features.maps.mean(1, keepdim=True), frame)
    assert values.shape == (1, 1, 9, 8)
    assert divmod(int(values.argmax()), 8)[0] in range(3, 7)
    # pixels 1 and 2 of a patch are an eighth of the way to the next patch, on either side
    assert values[0, 0, 4, 1] == 7 / 8


def test_frozen_leaves_the_mode_as_it_was(make_vit: MakeVit) -> None:
    backbone = make_vit().train()
    with maps.frozen(backbone):
        assert not backbone.training
        assert not backbone(torch.rand(1, 3, 8, 8)).cls.requires_grad
    assert backbone.training


def test_layers_lie_one_behind_the_other_and_the_width_counts_all(make_vit: MakeVit) -> None:
    backbone = make_vit()
    assert maps.width(backbone, layers=2) == 32
    head = LinearHead(Config(width=32, outputs=5)).eval()
    with maps.frozen(backbone):
        found = maps.predictor(backbone, head, layers=2)(torch.rand(2, 3, 10, 6))
    assert found.shape == (2, 5, 10, 6)


def test_the_short_side_is_resized_and_pixels_are_normalised(make_vit: MakeVit) -> None:
    image = torch.full((3, 10, 20), 255, dtype=torch.uint8)
    found = maps.prepared(image, make_vit(), short=5)
    assert found.shape == (1, 3, 5, 10)
    torch.testing.assert_close(found, torch.full((1, 3, 5, 10), 2.0))  # (1 - 0.5) / 0.25
