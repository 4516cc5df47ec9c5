"""Resizing by numba gives torch's numbers to the bit; slow, as the first call compiles."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from dinokit.views import crop, quick

pytestmark = pytest.mark.slow
pytest.importorskip("numba")

SIDES = [(65, 66), (70, 90), (375, 83), (65, 500)]


@pytest.mark.parametrize("kernel", ["bicubic", "bilinear"])
def test_crops_are_those_of_torch_to_the_bit(kernel: crop.Kernel, without_numba: Callable[[], None]) -> None:
    """Windows of a pixel and of the whole image, even and odd, shrunk and enlarged, mirrored, and one sticking out."""
    generate = np.random.default_rng(0)
    images = [
        torch.from_numpy(generate.integers(0, 256, (*side, 3), dtype=np.uint8)).permute(2, 0, 1) for side in SIDES
    ]
    images.append(images[0].contiguous())  # in planes
    images[1] = (images[1] > 127).to(torch.uint8).mul(255)  # bicubic overshoots
    kinds = []
    for size in (1, 16, 33, 224):
        start = generate.random((30, len(images), 2))
        limits = np.array([image.shape[1:] for image in images])
        sides = 1 + np.floor(generate.random((30, len(images), 2)) ** 2 * limits)
        sides[0] = limits
        corners = np.floor(start * (limits - sides + 1))
        corners[1, 0] = 60
        windows = np.concatenate([corners, sides], axis=2)
        kinds.append(crop.Kind(windows, generate.random((30, len(images))) < 0.5, size))
    assert quick.module("resizing") is not None
    ours = crop.cut_kinds(images, kinds, kernel=kernel)
    without_numba()
    for one, other in zip(ours, crop.cut_kinds(images, kinds, kernel=kernel), strict=True):
        assert torch.equal(one, other)
