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


def test_clipped_windows_stay_inside_and_are_larger_than_redrawn_ones() -> None:
    uniforms = np.random.default_rng(0).random((2000, crop.DRAWS))
    sides = {"height": np.full(2000, 28), "width": np.full(2000, 40)}
    clipped = crop.boxes(uniforms, **sides, scale=(0.6, 1.0), ratio=RATIO, fit="clip")
    top, left, tall, wide = clipped.T
    assert min(top.min(), left.min()) >= 0
    assert (top + tall).max() <= 28 + 1e-9
    assert (left + wide).max() <= 40 + 1e-9
    retried = crop.boxes(uniforms, **sides, scale=(0.6, 1.0), ratio=RATIO)
    assert (tall == 28).mean() > 2 * (retried[:, 2] == 28).mean()


def test_a_window_in_fractions_of_pixels_moves_the_crop() -> None:
    image = torch.arange(16, dtype=torch.uint8).mul(10).expand(1, 16, 16)  # brighter by 10 per pixel to the right
    windows = np.array([[[0.0, 3.5, 8.0, 8.0]]])
    row = crop.cut([image], windows, np.zeros((1, 1), dtype=bool), size=8, kernel="bilinear")[0, 0, 0, 4]
    assert row[1:-1].tolist() == [45, 55, 65, 75, 85, 95]


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("size", [8, 16, 40])
@pytest.mark.parametrize("kernel", ["bicubic", "bilinear"])
def test_small_images_resample_like_torch(channels: int, size: int, kernel: crop.Kernel) -> None:
    generate = np.random.default_rng(1)
    images = [torch.from_numpy(generate.integers(0, 256, (channels, 28, 24), dtype=np.uint8)) for _ in range(20)]
    windows = np.stack([_boxes(20, 28, 24, scale=(0.05, 1.0), seed=seed) for seed in (0, 1)])
    mirrored = generate.random((2, 20)) < 0.5
    ours = crop.cut(images, windows, mirrored, size=size, kernel=kernel)
    for view in range(2):
        for index, image in enumerate(images):
            top, left, height, width = windows[view, index]
            part = image[None, :, top : top + height, left : left + width].float()
            exact = F.interpolate(part, size=(size, size), mode=kernel, antialias=True)[0].clamp(0, 255)
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
    together = crop.cut(images, windows, mirrored, size=12, kernel="bicubic")
    for index, image in enumerate(images):
        alone = crop.cut([image], windows[:, [index]], mirrored[:, [index]], size=12, kernel="bicubic")
        assert torch.equal(together[:, [index]], alone)
        exact = F.interpolate(image[None].float(), size=(12, 12), mode="bicubic", antialias=True)[0].clamp(0, 255)
        exact = exact.flip(-1) if mirrored[0, index] else exact
        assert (together[0, index].float() - exact).abs().max() <= 2  # torch's 8-bit kernel rounds twice
