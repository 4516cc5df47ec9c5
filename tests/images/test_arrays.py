"""Every picture stands upright."""

import io

import numpy as np
import pytest
from PIL import Image

from dinokit.images.arrays import turned
from dinokit.images.decode import decode

FRAME = np.arange(6).reshape(2, 3, 1)


def test_the_eight_orientations_are_those_of_pillow() -> None:
    image = Image.fromarray(FRAME[:, :, 0].astype(np.uint8))
    methods = dict(zip(range(2, 9), (0, 3, 1, 5, 4, 6, 2), strict=True))
    for orientation, method in methods.items():
        expected = np.asarray(image.transpose(Image.Transpose(method)))
        assert np.array_equal(turned(FRAME, orientation)[:, :, 0], expected)
    for nothing in (None, 0, 1, 9, "6", 6.5):
        assert turned(FRAME, nothing) is FRAME


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
def test_every_format_with_an_orientation_is_turned(kind: str) -> None:
    image = Image.new("L", (16, 8), 0)
    image.paste(255, (0, 0, 8, 8))
    exif = Image.Exif()
    exif[274] = 6  # the left is the top
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, kind, exif=exif)
    pixels = decode(buffer.getvalue(), channels=1)[0].float()
    assert pixels.shape == (16, 8)
    assert pixels[:8].mean() > 250
    assert pixels[8:].mean() < 5


def test_damaged_metadata_costs_no_picture() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (9, 9, 9)).save(buffer, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert decode(buffer.getvalue()).shape == (3, 8, 8)
