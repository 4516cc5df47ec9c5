"""Images and a run to learn from, which no test of this folder changes: who has to takes a copy."""

from pathlib import Path

import pytest

from dinokit.run import engine
from tests.conftest import few_photos
from tests.run.test_engine import config


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of twelve small pictures."""
    return few_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    """A run of two steps, to distil from."""
    run = tmp_path_factory.mktemp("teacher") / "run"
    engine.pretrain(config(photos, steps=2), run)
    return run


@pytest.fixture(scope="session")
def first(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    """A run of three steps with all its states, to go on from."""
    run = tmp_path_factory.mktemp("first") / "run"
    engine.pretrain(config(photos, steps=3, checkpoint_every=1, keep=9), run)
    return run
