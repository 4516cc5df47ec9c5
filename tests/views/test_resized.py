import numpy as np
import torch

from dinokit.views.resized import resized_crop

IMAGE = torch.arange(48 * 64, dtype=torch.float32).view(1, 48, 64) / (48 * 64)


def test_a_crop_is_a_function_of_its_key() -> None:
    one, again, other = (resized_crop(IMAGE, size=16, key=key) for key in ((0, 1, 5), (0, 1, 5), (0, 1, 6)))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert one.shape == (1, 16, 16)


def test_half_of_the_crops_are_mirrored_and_areas_are_those_of_the_papers() -> None:
    # values grow by 1 / 3072 a column: the slope of a crop tells the width of its window, and its sign the mirror
    found = [resized_crop(IMAGE, size=16, key=(0, 1, position)) for position in range(400)]
    across = np.array([float(crop[0, :, 12].mean() - crop[0, :, 3].mean()) for crop in found]) * 3072 * 16 / 9
    down = np.array([float(crop[0, 12].mean() - crop[0, 3].mean()) for crop in found]) * 3072 / 64 * 16 / 9
    assert abs((across < 0).mean() - 0.5) < 0.08  # three standard deviations
    shares = np.abs(across) * down / (48 * 64)
    assert 0.06 < shares.min() < 0.2
    assert 0.8 < shares.max() < 1.05


def test_type_and_range_of_an_image_stay() -> None:
    gray = (IMAGE * 255).to(torch.uint8)
    assert resized_crop(gray, size=8, key=(0,)).dtype == torch.uint8
    warm = IMAGE * 160 - 40  # a thermal image
    crop = resized_crop(warm, size=8, key=(0,))
    assert crop.min() < 10
    assert crop.max() > 60
    assert torch.allclose(crop, resized_crop(IMAGE, size=8, key=(0,)) * 160 - 40, atol=1e-3)
