"""Images that runs are made of."""

from pathlib import Path

import numpy
import pytest
from PIL import Image

from dinokit.training import engine

from .test_engine import config


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve small pictures."""
    folder = tmp_path / "photos"
    folder.mkdir()
    draw = numpy.random.default_rng(0)
    for index in range(12):
        Image.fromarray(draw.integers(0, 256, (20, 24, 3), dtype=numpy.uint8)).save(folder / f"{index}.png")
    return folder


@pytest.fixture
def teacher(tmp_path: Path, photos: Path) -> Path:
    """A run of two steps, to distil from."""
    run = tmp_path / "teacher"
    engine.pretrain(config(photos, steps=2), run)
    return run
