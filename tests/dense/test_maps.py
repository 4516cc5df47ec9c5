from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dinokit.core.messages import UserError
from dinokit.dense import maps
from dinokit.dense.maps import Windows, augmented, best_class, resized, slide, starts
from dinokit.dense.segmentation import Config, LinearHead
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
    assert [one.patches.shape[-1] for one in maps.tried(backbone, layers=2)] == [16, 16]
    head = LinearHead(Config(width=32, outputs=5)).eval()
    with maps.frozen(backbone):
        found = maps.predictor(backbone, head, layers=2)(torch.rand(2, 3, 10, 6))
    assert found.shape == (2, 5, 10, 6)


def test_the_short_side_is_resized_and_pixels_are_normalised(make_vit: MakeVit) -> None:
    image = torch.full((3, 10, 20), 255, dtype=torch.uint8)
    found = maps.prepared(image, make_vit(), short=5)
    assert found.shape == (1, 3, 5, 10)
    torch.testing.assert_close(found, torch.full((1, 3, 5, 10), 2.0))  # (1 - 0.5) / 0.25


@pytest.mark.parametrize(
    ("length", "expected"),
    [(512, [0]), (300, [0]), (513, [0, 1]), (853, [0, 341]), (854, [0, 341, 342]), (1194, [0, 341, 682])],
)
def test_the_last_window_is_shifted_back_to_end_at_the_border(length: int, expected: list[int]) -> None:
    assert starts(length, crop=512, stride=341) == expected


def test_windows_that_cover_the_image_see_it_whole() -> None:
    seen = []

    def predict(images: Tensor) -> Tensor:
        seen.append(images.shape[2:])
        return images * 2

    images = torch.rand(1, 2, 9, 7)
    assert torch.equal(slide(images, predict, Windows(9, 4)), predict(images))
    assert set(seen) == {(9, 7)}


@pytest.mark.parametrize(("height", "width", "crop", "stride"), [(11, 7, 4, 3), (5, 13, 6, 6), (9, 9, 5, 1)])
def test_what_does_not_depend_on_the_window_is_not_changed_by_windows(
    height: int, width: int, crop: int, stride: int
) -> None:
    images = torch.rand(2, 3, height, width, dtype=torch.float64)
    found = slide(images, lambda window: window.cumsum(1), Windows(crop, stride))
    torch.testing.assert_close(found, images.cumsum(1))


def test_a_value_is_the_mean_over_the_windows_that_saw_the_pixel() -> None:
    numbers = iter(range(1, 10))
    found = slide(torch.zeros(1, 1, 3, 5), lambda window: torch.full_like(window, next(numbers)), Windows(3, 1))
    # windows 1, 2, 3 begin at columns 0, 1, 2
    assert found[0, 0, 0].tolist() == [1, 1.5, 2, 2.5, 3]


def test_mirrored_predictions_are_mirrored_back() -> None:
    images = torch.rand(1, 2, 6, 8)
    plain = augmented(images, lambda seen: seen, size=(6, 8))
    torch.testing.assert_close(augmented(images, lambda seen: seen, size=(6, 8), flip=True), plain)
    # a head that answers by place, not by content: left 0, right 1, on average 0.5 everywhere
    ramp = torch.linspace(0, 1, 8).expand(1, 1, 6, 8)
    found = augmented(images, lambda seen: ramp, size=(6, 8), flip=True)
    torch.testing.assert_close(found, torch.full((1, 1, 6, 8), 0.5))


def test_scales_are_averaged_after_the_softmax_at_the_size_of_the_target() -> None:
    images = torch.rand(1, 2, 8, 8)
    sides = []

    def predict(seen: Tensor) -> Tensor:
        sides.append(tuple(seen.shape[2:]))
        logit = 4.0 if seen.shape[2] == 8 else 0.0
        return torch.tensor([logit, 0.0]).view(1, 2, 1, 1).expand(1, 2, *seen.shape[2:])

    found = augmented(images, predict, size=(5, 6), ratios=(1.0, 1.5), link=lambda values: values.softmax(dim=1))
    assert sides == [(8, 8), (12, 12)]
    expected = (torch.tensor(4.0).sigmoid() + 0.5) / 2
    torch.testing.assert_close(found[:, 0], expected.expand(1, 5, 6))
    torch.testing.assert_close(found.sum(1), torch.ones(1, 5, 6))


def test_the_predictions_of_a_head_are_not_written_to() -> None:
    images = torch.rand(1, 1, 4, 4)
    before = images.clone()
    augmented(images, lambda seen: seen, size=(4, 4), ratios=(1.0, 1.0), flip=True)
    assert torch.equal(images, before)


def test_gaps_between_windows_are_refused() -> None:
    with pytest.raises(UserError, match="1 <= stride <= crop"):
        Windows(4, 5)


def test_the_best_class_one_by_one_is_the_argmax_of_all() -> None:
    logits = torch.randn(1, 5, 6, 7)
    assert torch.equal(best_class(logits, (11, 9)), resized(logits, (11, 9))[0].argmax(0))
