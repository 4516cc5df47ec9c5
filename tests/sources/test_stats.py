"""Statistics are those of all pixels, each image weighing the same."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dinokit.core.messages import UserError
from dinokit.sources.check import stats
from dinokit.sources.source import in_memory, open_source
from tests.images.hostile import npy, tiff


def test_the_closed_form_on_images_of_one_size() -> None:
    images = torch.randint(0, 256, (9, 4, 7, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images[:, 2] //= 3
    found = stats(in_memory(images))
    values = images.numpy() / 255
    assert found.mean == pytest.approx(values.mean(axis=(0, 2, 3)), abs=1e-7)
    assert found.std == pytest.approx(values.std(axis=(0, 2, 3)), abs=1e-7)
    assert found.low == pytest.approx(values.min(axis=(0, 2, 3)))
    assert found.high == pytest.approx(values.max(axis=(0, 2, 3)))
    assert (found.images, found.bad) == (9, 0)


def test_a_large_image_weighs_as_much_as_a_small_one(tmp_path: Path) -> None:
    Image.new("L", (100, 100), 255).save(tmp_path / "large.png")
    Image.new("L", (2, 2), 0).save(tmp_path / "small.png")
    (tmp_path / "bad.png").write_bytes(b"")
    found = stats(open_source(str(tmp_path)))
    assert found.mean == (0.5, 0.5, 0.5)
    assert found.std == (0.5, 0.5, 0.5)
    assert (found.images, found.bad) == (2, 1)


def test_a_small_spread_about_a_large_mean_is_exact(tmp_path: Path) -> None:
    """float32 has 7 digits, and the square of the mean is 10^12 times the variance."""
    values = 1e6 + np.random.default_rng(0).integers(0, 4, (5, 2, 8, 8)).astype(np.float32)
    for number, image in enumerate(values):
        (tmp_path / f"{number}.npy").write_bytes(npy(image))
    found = stats(open_source(str(tmp_path), channels=2))
    exact = values.astype(np.float64)
    assert found.std == pytest.approx(exact.std(axis=(0, 2, 3)), rel=1e-9)
    assert found.mean == pytest.approx(exact.mean(axis=(0, 2, 3)), rel=1e-12)


def test_a_sample_is_evenly_spaced() -> None:
    images = torch.arange(10, dtype=torch.uint8)[:, None, None, None].expand(10, 1, 2, 2)
    assert stats(in_memory(images), limit=2).high == pytest.approx((9 / 255,))


def test_nothing_readable_is_one_clear_line(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((20, 20, 13), np.uint8))
    with pytest.raises(UserError, match=r"no image of .* the first is a.npy: 3 channels wanted, the file holds 13"):
        stats(open_source(str(tmp_path)))


def test_pixels_without_data_do_not_count(tmp_path: Path) -> None:
    """GDAL's nodata: only 2 and 4 are measured."""
    values = np.array([[-9999, 2, 4]], np.float32)
    (tmp_path / "a.tif").write_bytes(tiff(values, extratags=[(42113, 2, 6, b"-9999\0", True)]))
    found = stats(open_source(str(tmp_path), channels=1))
    assert (found.mean, found.std, found.low, found.high) == ((3,), (1,), (2,), (4,))
