"""Images that runs are made of."""

from pathlib import Path

import numpy
import pytest
from PIL import Image


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve small pictures."""
    folder = tmp_path / "photos"
    folder.mkdir()
    draw = numpy.random.default_rng(0)
    for index in range(12):
        Image.fromarray(draw.integers(0, 256, (20, 24, 3), dtype=numpy.uint8)).save(folder / f"{index}.png")
    return folder
