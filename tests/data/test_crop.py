"""Windows follow torchvision's rule, and both ways of resampling give torch's pixels."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dinokit.data import crop

RATIO = (3 / 4, 4 / 3)


def _boxes(samples: int, height: int, width: int, *, scale: tuple[float, float], seed: int = 0) -> np.ndarray:
    uniforms = np.random.default_rng(seed).random((samples, crop.DRAWS))
    sides = np.full(samples, height), np.full(samples, width)
    return crop.boxes(uniforms, height=sides[0], width=sides[1], scale=scale, ratio=RATIO)


@pytest.mark.parametrize(("height", "width"), [(28, 28), (60, 90), (400, 30)])
def test_windows_lie_inside(height: int, width: int) -> None:
    top, left, tall, wide = _boxes(500, height, width, scale=(0.05, 1.0)).T
    assert (np.minimum.reduce([top, left]) >= 0).all()
    assert (np.minimum.reduce([tall, wide]) >= 1).all()
    assert (top + tall <= height).all()
    assert (left + wide <= width).all()


def test_windows_have_the_distribution_of_the_reference_implementation() -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    torch.manual_seed(0)
    image = torch.zeros(1, 375, 500)
    get = transforms.RandomResizedCrop.get_params
    theirs = np.array([get(image, [0.32, 1.0], list(RATIO)) for _ in range(3000)])
    ours = _boxes(3000, 375, 500, scale=(0.32, 1.0))
    for column in range(4):
        spread = np.percentile(theirs[:, column], [10, 25, 50, 75, 90])
        # 500 px wide, 3000 samples: percentiles scatter by about 5 px
        assert np.percentile(ours[:, column], [10, 25, 50, 75, 90]) == pytest.approx(spread, abs=16)


@pytest.mark.parametrize(("height", "width", "box"), [(10, 100, (0, 43, 10, 13)), (100, 10, (43, 0, 13, 10))])
def test_images_too_long_fall_back_to_the_centre(height: int, width: int, box: tuple[int, ...]) -> None:
    assert (_boxes(20, height, width, scale=(0.9, 1.0)) == box).all()


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("size", [8, 16, 40])
def test_small_images_resample_like_torch(channels: int, size: int) -> None:
    generate = np.random.default_rng(1)
    images = [torch.from_numpy(generate.integers(0, 256, (channels, 28, 24), dtype=np.uint8)) for _ in range(20)]
    windows = np.stack([_boxes(20, 28, 24, scale=(0.05, 1.0), seed=seed) for seed in (0, 1)])
    mirrored = generate.random((2, 20)) < 0.5
    ours = crop.cut(images, windows, mirrored, size=size)
    for view in range(2):
        for index, image in enumerate(images):
            top, left, height, width = windows[view, index]
            part = image[None, :, top : top + height, left : left + width].float()
            exact = F.interpolate(part, size=(size, size), mode="bicubic", antialias=True)[0].clamp(0, 255)
            exact = exact.flip(-1) if mirrored[view, index] else exact
            # rounding to 8 bits
            assert (ours[view, index].float() - exact).abs().max() <= 0.51


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_large_and_small_images_mix_in_one_batch(channels: int) -> None:
    generate = np.random.default_rng(2)
    sides = [(28, 28), (70, 90), (28, 28), (64, 10), (65, 65)]
    images = [torch.from_numpy(generate.integers(0, 256, (channels, *side), dtype=np.uint8)) for side in sides]
    windows = np.array([[(0, 0, *side) for side in sides]])
    mirrored = np.array([[True, False, False, True, True]])
    together = crop.cut(images, windows, mirrored, size=12)
    for index, image in enumerate(images):
        alone = crop.cut([image], windows[:, [index]], mirrored[:, [index]], size=12)
        assert torch.equal(together[:, [index]], alone)
        exact = F.interpolate(image[None].float(), size=(12, 12), mode="bicubic", antialias=True)[0].clamp(0, 255)
        exact = exact.flip(-1) if mirrored[0, index] else exact
        assert (together[0, index].float() - exact).abs().max() <= 2  # torch's 8-bit kernel rounds twice
