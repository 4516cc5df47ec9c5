"""What numba compiles gives the numbers of torch's operations, to rounding; slow, as the first call compiles."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from dinokit.images.intensity import Pixels, normalised, to_unit
from dinokit.views import augment, multicrop
from dinokit.views.noise import Noise

pytestmark = pytest.mark.slow
pytest.importorskip("numba")
compiled = pytest.importorskip("dinokit.views.compiled")

SAMPLES = 32
STRONG = augment.Config(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.5, grayscale=0.2, solarise=0.3)
RECIPE = replace(augment.Config(), solarise=0.3, blur=0.9)  # the strengths of the published recipes
CLOSE = 1e-6  # of white, an operation and a chain of the recipes
# stronger brightness, contrast and saturation stretch by up to 1.8 each what the means for the contrast differ by
STRETCHED = 2e-6


def _crops(channels: int = 3, height: int = 24, width: int = 24) -> torch.Tensor:
    shape = (SAMPLES, channels, height, width)
    crops = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    crops[0] = 0
    crops[1] = 255
    crops[2, :, : height // 2] = 128  # where solarisation begins, and grey: the hue means nothing
    return crops


def _drawn(config: augment.Config, channels: int) -> augment.Parameters:
    return augment.draw(config, np.random.default_rng(1).random((SAMPLES, augment.DRAWS)), channels=channels)


def _both(crops: torch.Tensor, config: augment.Config) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what numba and what torch makes of crops."""
    pixels = Pixels((0.0,), (1.0,))
    drawn = _drawn(config, crops.shape[1])
    out = torch.full(crops.shape, torch.nan)
    compiled.distorted(crops.numpy(), drawn, config, pixels, None, out=out.numpy())
    return out, normalised(augment.apply(to_unit(crops).clone(), drawn, config), pixels)


def _assert_close(ours: torch.Tensor, theirs: torch.Tensor, *, close: float) -> None:
    """Compare; a pixel that rounding takes over the threshold of solarisation is inverted on one side."""
    far, threshold = (ours - theirs).abs() > close, STRONG.solarise_threshold
    inverted = ((ours + theirs - 1).abs() < 1e-5) & (
        (ours - threshold).abs().minimum((ours - 1 + threshold).abs()) < 1e-5
    )
    assert not (far & ~inverted).any(), (ours - theirs)[far & ~inverted]
    assert far.sum() <= 2


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("depth", [torch.uint8, torch.float32])
@pytest.mark.parametrize(("config", "close"), [(RECIPE, CLOSE), (STRONG, STRETCHED)])
def test_the_chain_is_that_of_torch(channels: int, depth: torch.dtype, config: augment.Config, close: float) -> None:
    crops = _crops(channels)
    crops = crops if depth == torch.uint8 else to_unit(crops)
    ours, theirs = _both(crops, config)
    _assert_close(ours, theirs, close=close)


NOTHING = replace(STRONG, jitter=0.0, grayscale=0.0, blur=0.0, solarise=0.0)
STILL = replace(STRONG, jitter=1.0, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0, grayscale=0.0, blur=0.0)
CONTRAST, BLUR = replace(STILL, solarise=0.0, contrast=0.9), replace(NOTHING, blur=1.0)


@pytest.mark.parametrize(
    "alone",
    [
        NOTHING,
        replace(STILL, solarise=0.0, brightness=0.9),
        CONTRAST,
        replace(STILL, solarise=0.0, saturation=0.9),
        replace(STILL, solarise=0.0, hue=0.5),
        replace(NOTHING, grayscale=1.0),
        BLUR,
        replace(NOTHING, solarise=1.0),
    ],
)
def test_every_operation_is_that_of_torch_within_a_millionth(alone: augment.Config) -> None:
    ours, theirs = _both(_crops(), alone)
    torch.testing.assert_close(ours, theirs, atol=CLOSE, rtol=0)
    assert torch.equal(ours, theirs) or alone not in (NOTHING, replace(NOTHING, solarise=1.0))


@pytest.mark.parametrize(("height", "width"), [(33, 47), (9, 70), (41, 9)])  # 1,551 pixels: more than a tile
@pytest.mark.parametrize("taps", [1, 3, 9, 17])
def test_any_size_and_any_width_of_the_blur(height: int, width: int, taps: int) -> None:
    config = replace(NOTHING, blur=1.0, blur_taps=taps)
    ours, theirs = _both(_crops(3, height, width), config)
    torch.testing.assert_close(ours, theirs, atol=CLOSE, rtol=0)
    ours, theirs = _both(_crops(3, height, width), replace(RECIPE, blur_taps=taps))
    _assert_close(ours, theirs, close=CLOSE)


@pytest.mark.parametrize("added", [None, Noise(probability=0.7)])
def test_views_are_those_of_torch_in_the_ranges_of_their_images(
    added: Noise | None, without_numba: Callable[[], None]
) -> None:
    """All crops of a batch of images of 8 bits and of others, one beyond white, with noise and without."""
    generate = np.random.default_rng(0)
    images = [torch.from_numpy(generate.integers(0, 256, (3, 70, 90), dtype=np.uint8)) for _ in range(4)]
    images[1] = images[1] / 255 * 160 - 40
    images[2] = images[2] / 255
    strong = replace(STRONG, solarise=0.0, noise=added)
    config = multicrop.Config(
        global_size=32, local_size=16, local_count=3, anchor_size=48, first=strong, second=strong, local=strong
    )
    cut = multicrop.cut(images, config, Pixels((0.3,), (1.0,)), seed=0, step=0, first=0)
    ours = cut.on(torch.device("cpu"))
    without_numba()
    theirs = cut.on(torch.device("cpu"))
    span = torch.tensor([1.0, 160.0, 1.0, 1.0])[:, None, None, None]
    for name in ("global_crops", "local_crops", "anchor_crops"):
        one, other = getattr(ours, name), getattr(theirs, name)
        torch.testing.assert_close(one / span, other / span, atol=STRETCHED, rtol=0)
        assert torch.equal(one, other) == (name == "anchor_crops")  # two ways indeed, but of what is only normalised
