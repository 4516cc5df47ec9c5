"""White is 255 in uint8 and 1.0 in float32, everywhere; where that cannot be meant, it is said once."""

import math
from collections.abc import Iterator

import pytest
import torch

from dinokit.core.messages import UserError
from dinokit.images import intensity
from dinokit.images.intensity import Pixels
from dinokit.models import vit


def test_mixed_depths_stack_to_one_scale() -> None:
    eight = torch.tensor([[[0, 51, 255]]], dtype=torch.uint8)
    deep = torch.tensor([[[0.0, 0.2, 1.0]]])
    both = intensity.stacked([eight, deep])
    torch.testing.assert_close(both[0], both[1])
    assert intensity.stacked([eight, eight]).dtype == torch.uint8


def test_the_range_of_an_image_holds_black_and_white() -> None:
    assert intensity.value_range(torch.zeros(1, 2, 2, dtype=torch.uint8)) == (0, 1)
    assert intensity.value_range(torch.full((1, 2, 2), 0.5)) == (0, 1)
    assert intensity.value_range(torch.tensor([[[-40.0, 120.0]]])) == (-40, 120)


def test_a_screen_shows_the_whole_range() -> None:
    images = torch.tensor([[[[-40.0, 40.0, 120.0]]], [[[0.0, 0.2, 1.0]]]])
    assert intensity.for_display(images).flatten(1).tolist() == [[0, 128, 255], [0, 51, 255]]


def test_each_channel_is_normalised_by_its_own_or_the_only_numbers() -> None:
    values = torch.tensor([[[1.0]], [[0.5]]])
    assert intensity.normalised(values, Pixels((0.5,), (0.25,))).flatten().tolist() == [2, 0]
    assert intensity.normalised(values, Pixels((0.0, 0.5), (1.0, 2.0))).flatten().tolist() == [1, 0]
    with pytest.raises(UserError, match="3 values, the images 2 channels"):
        intensity.normalised(values, Pixels())


@pytest.fixture
def unsaid() -> Iterator[None]:
    intensity._warn_once.cache_clear()
    yield
    intensity._warn_once.cache_clear()


@pytest.mark.usefixtures("unsaid")
def test_a_tensor_of_0_to_255_is_warned_of_once(capsys: pytest.CaptureFixture[str]) -> None:
    model = vit.VisionTransformer(vit.Config(patch_size=4, dim=8, depth=1, heads=2), seed=0).eval()
    picture = torch.rand(1, 3, 8, 8)
    model(intensity.normalised(picture, model.pixels))
    model.train()(picture * 255)
    assert capsys.readouterr().err == ""
    for _ in range(2):
        model.eval()(picture * 255)
    assert capsys.readouterr().err.count("--data.white 255") == 1


@pytest.mark.usefixtures("unsaid")
@pytest.mark.parametrize(
    ("image", "said"),
    [
        (torch.full((3, 4, 4), 128, dtype=torch.uint8), ""),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), ""),
        (torch.rand(3, 4, 4), ""),
        (torch.rand(3, 4, 4) * 255, "--data.white 255"),
        (torch.full((3, 4, 4), 300.0), "--data.white 255"),
        (torch.full((3, 4, 4), 4095 / 65535), "--data.white 4095"),
    ],
)
def test_values_that_cannot_be_meant_are_said(
    image: intensity.Image, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    intensity.warn_of_values([image], Pixels())
    found = capsys.readouterr().err
    assert (said in found) if said else not found


@pytest.mark.usefixtures("unsaid")
def test_values_with_statistics_of_their_own_are_not_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    intensity.warn_of_values([torch.rand(1, 4, 4) * 20 + 290], Pixels((300.0,), (5.8,)))
    intensity.warn_of_values([torch.rand(1, 4, 4) * 0.05], Pixels((0.025,), (0.015,)))
    assert capsys.readouterr().err == ""


def test_one_value_serves_any_number_of_channels_and_others_must_match() -> None:
    Pixels((0.5,), (0.5,)).check_channels(7)
    Pixels().check_channels(3)
    with pytest.raises(UserError, match="3 values, the images 4 channels"):
        Pixels().check_channels(4)


@pytest.mark.parametrize(
    "wrong", [((0.5,), (0.5, 0.5)), ((0.5,), (0.0,)), ((), ()), ((math.nan,), (0.5,)), ((0.5,), (math.nan,))]
)
def test_impossible_normalisations_are_refused(wrong: tuple[tuple[float, ...], tuple[float, ...]]) -> None:
    with pytest.raises(UserError, match="pixels|mean|std"):
        Pixels(*wrong)
