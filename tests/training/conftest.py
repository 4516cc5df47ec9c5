"""A run to learn from."""

from pathlib import Path

import pytest

from dinokit.run import engine
from tests.run.test_engine import config


@pytest.fixture
def teacher(tmp_path: Path, photos: Path) -> Path:
    """A run of two steps, to distil from."""
    run = tmp_path / "teacher"
    engine.pretrain(config(photos, steps=2), run)
    return run
