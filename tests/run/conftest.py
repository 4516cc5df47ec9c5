"""Runs that nothing happened to, trained once: others are compared with them, and who changes one takes a copy."""

import functools
from collections.abc import Callable
from pathlib import Path

import pytest

from dinokit.run import engine
from tests.conftest import few_photos
from tests.run.test_engine import config

MakeWhole = Callable[..., Path]


@pytest.fixture(scope="session")
def kept_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images of these runs, the same as `photos`."""
    return few_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, kept_photos: Path) -> MakeWhole:
    """Give the run of `config(kept_photos, **settings)`."""

    @functools.cache
    def train(**settings: object) -> Path:
        run = tmp_path_factory.mktemp("whole") / "run"
        engine.pretrain(config(kept_photos, **settings), run)  # type: ignore[arg-type]
        return run

    return train
