"""What is said of the loader: whether the run waits for it."""

from pathlib import Path

import numpy
import pytest
import torch

from dinokit.core.stopping import Stop
from dinokit.run import engine
from dinokit.run.feed import Supplied, Supply
from dinokit.training.step import Trainer
from dinokit.views.loader import Batch
from dinokit.views.multicrop import Views
from tests.run.test_engine import config, loader
from tests.training.test_step import CPU


def supply(photos: Path, *, building: float, waited: float, workers: int = 0) -> str:
    settings = config(photos, workers=workers)
    found = Supply(loader(settings, Trainer(settings.experiment, CPU)), start=0, stop=1, wish=Stop())
    views = Views(torch.zeros(2, 4, 3, 16, 16), torch.zeros(2, 4, 3, 8, 8), None)
    for _ in range(3):
        found.add(Supplied((Batch(0, 0, views, numpy.arange(4), (), building),), waited), seconds=2.0)
    return found.verdict()


def test_a_loader_that_is_faster_is_not_the_bottleneck(photos: Path) -> None:
    said = supply(photos, building=0.01, waited=0.0)
    assert said == "the loader supplies 400 img/s, the model uses 2: not the bottleneck"


def test_each_process_adds_to_what_is_supplied(photos: Path) -> None:
    assert "supplies 800 img/s" in supply(photos, building=0.01, waited=0.0, workers=2)


def test_a_run_that_waits_says_how_much_and_what_to_do(photos: Path) -> None:
    said = supply(photos, building=1.5, waited=1.5)
    assert said.startswith("75% of the time is waiting for data (the loader supplies 3 img/s, the model uses 8)")


def test_a_run_ends_with_it(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine.pretrain(config(photos, steps=2), tmp_path / "run")
    assert "the loader supplies" in capsys.readouterr().err
