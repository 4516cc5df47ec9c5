"""Sharded networks take the steps of whole ones, and their checkpoints go on with any number of processes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dinokit.checkpoints.store import RunFolder
from dinokit.training import engine
from dinokit.training.config import TrainConfig

from .test_engine import config, losses, photos
from .test_ranks import without_draws

__all__ = ["photos"]  # the fixture


def settings(photos: Path, **changes: object) -> TrainConfig:
    return without_draws(config(photos, **changes))


def state(run: Path) -> dict[str, Tensor]:
    folder = RunFolder(run)
    return folder.load(folder.steps()[-1])[0]


def assert_close(one: Path, other: Path) -> None:
    """Float32 rounding is all that differs; AdamW makes noise in the weights of noise in tiny gradients."""
    assert losses(other) == {step: pytest.approx(loss, rel=1e-4) for step, loss in losses(one).items()}
    left, right = state(one), state(other)
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert right[name].dtype == value.dtype
        if value.is_floating_point() and value.norm():
            assert float((right[name] - value).norm() / value.norm()) < 1e-2, name


def test_two_sharded_processes_take_the_steps_of_one(photos: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    engine.pretrain(settings(photos), one)
    engine.pretrain(settings(photos, processes=2, sharding="fsdp"), two)
    assert_close(one, two)
