"""Windows follow torchvision's rule, and both ways of resampling give torch's pixels."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dinokit.views import crop

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


def test_a_window_of_less_than_half_a_pixel_is_a_pixel() -> None:
    image = torch.randint(0, 256, (3, 70, 70), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    windows = np.array([[[5.0, 7.0, 0.3, 0.4]], [[69.8, 69.8, 0.2, 0.2]]])
    crops = crop.cut([image], windows, np.zeros((2, 1), bool), size=4, kernel="bicubic")
    assert (crops[0, 0] == image[:, 5:6, 7:8]).all()
    assert (crops[1, 0] == image[:, -1:, -1:]).all()


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


@pytest.mark.parametrize("side", [48, 120])  # resampled together; one by one
def test_a_turned_crop_shows_the_turned_window(side: int) -> None:
    """On a ramp every pixel tells where it was looked up: at the window's centre plus the turned offset."""
    row, column = np.mgrid[:side, :side] + 0.5
    image = torch.from_numpy(np.stack([row, column])).mul(240 / side)  # [2, side, side]
    size, angle = 8, np.radians(30)
    window = np.array([[[0.25, 0.35, 0.5, 0.4]]]) * side  # top, left, height, width
    canvas = crop.canvas(size, rotate=30.0)
    crops = crop.cut(
        [image.round().to(torch.uint8)],
        crop.grown(window, canvas / size),
        np.zeros((1, 1), dtype=bool),
        size=canvas,
        kernel="bilinear",
    )
    turned = crop.turn(crops, np.full((1, 1), angle), size=size)[0, 0].numpy()
    down, right = (np.mgrid[:size, :size] + 0.5) / size - 0.5  # of each output pixel, in sides of the window
    expected = [
        0.5 + 0.5 * (down * np.cos(angle) + right * np.sin(angle)),  # counter-clockwise: right looks further down
        0.55 + 0.4 * (right * np.cos(angle) - down * np.sin(angle)),
    ]
    np.testing.assert_allclose(turned, 240 * np.array(expected), atol=2.5)  # 8 bits, and whole pixels when large


@pytest.mark.parametrize("kernel", ["bicubic", "bilinear"])
@pytest.mark.parametrize("side", [20, 100])  # resampled together; one by one
def test_beyond_the_image_its_edge_goes_on(side: int, kernel: crop.Kernel) -> None:
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, side, side), dtype=np.uint8))
    windows = np.array([[(-4, 10, side, side), (3, -5, side, side + 9)]])
    sources = [image, image]
    ours = crop.cut(sources, windows, np.zeros((1, 2), dtype=bool), size=16, kernel=kernel)
    padded = F.pad(image[None].float(), (10,) * 4, mode="replicate")
    for index, (top, left, height, width) in enumerate(windows[0] + (10, 10, 0, 0)):
        part = padded[:, :, top : top + height, left : left + width]
        exact = F.interpolate(part, size=(16, 16), mode=kernel, antialias=True)[0].clamp(0, 255)
        assert (ours[0, index].float() - exact).abs().max() <= 2  # 8 bits


def test_a_crop_that_is_not_turned_stays_sharp() -> None:
    """The canvas of a turn has equal margins, so that a turn by nothing copies pixels."""
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 40, 40), dtype=np.uint8))
    window, still = np.array([[[6, 7, 24, 24]]]), np.zeros((1, 1))
    side = crop.canvas(24, rotate=12.0)
    crops = crop.cut([image], crop.grown(window, side / 24), still.astype(bool), size=side, kernel="bilinear")
    assert torch.equal(crop.turn(crops, still, size=24)[0, 0], image[:, 6:30, 7:31])


def test_the_canvas_holds_every_turn() -> None:
    assert crop.canvas(24, rotate=0.001) == 26
    assert crop.canvas(24, rotate=45.0) == crop.canvas(24, rotate=180.0) == 34


@pytest.mark.parametrize("side", [48, 120])  # resampled together; one by one
def test_float_images_keep_their_type_and_stay_within_black_and_white(side: int) -> None:
    """Bicubic overshoots beside an edge; uint8 is clamped by its type."""
    image = torch.zeros(1, side, side)
    image[..., side // 2 :] = 1
    windows, straight = np.array([[[0, 0, side, side]]]), np.zeros((1, 1), dtype=bool)
    crops = crop.cut([image], windows, straight, size=2 * side, kernel="bicubic")
    assert crops.dtype == torch.float32
    assert (crops.min(), crops.max()) == (0, 1)
    twin = crop.cut([(image * 255).to(torch.uint8)], windows, straight, size=2 * side, kernel="bicubic")
    assert (crops * 255 - twin).abs().max() <= 1.5  # torch's 8-bit kernel rounds twice
