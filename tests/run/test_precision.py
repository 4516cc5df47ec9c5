"""What "auto" is, is settled once for a run, which keeps to it."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dinokit.checkpoints.store import RunFolder
from dinokit.config import to_yaml
from dinokit.core.device import Precision, has_bf16
from dinokit.core.files import read_jsonl
from dinokit.run import engine
from dinokit.run.precision import agreed, settled
from dinokit.training.config import TrainConfig, read
from tests.run.test_engine import assert_same, config, final

CPU = torch.device("cpu")


def of(precision: Precision, photos: Path) -> TrainConfig:
    whole = config(photos)
    return replace(whole, experiment=replace(whole.experiment, precision=precision))


@pytest.mark.parametrize("begun", ["bf16", "fp32"])
def test_auto_goes_on_as_the_run_began(begun: Precision, photos: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.create(to_yaml(of(begun, photos)))
    run.metrics.touch()
    assert settled(of("auto", photos), run, CPU) == of(begun, photos)


def test_auto_of_an_earlier_version_went_by_the_instructions(photos: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.create(to_yaml(of("auto", photos)))
    run.metrics.touch()
    assert settled(of("auto", photos), run, CPU).experiment.precision == ("bf16" if has_bf16(CPU) else "fp32")


def test_what_nothing_came_of_settles_nothing(photos: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.create(to_yaml(of("bf16", photos)))
    assert settled(of("auto", photos), run, CPU) == of("fp32", photos)  # its tokens are narrow


def test_alone_a_rank_agrees_with_itself(photos: Path) -> None:
    assert [agreed(of(name, photos)) for name in ("bf16", "fp32")] == [of("bf16", photos), of("fp32", photos)]


def test_a_run_says_what_it_took_and_auto_continues_it(
    kept_photos: Path, whole: Callable[[], Path], tmp_path: Path
) -> None:
    """The same command once more, after the second half of the run was lost."""
    run = shutil.copytree(whole(), tmp_path / "run")
    shutil.rmtree(run / "checkpoints" / "6")
    assert read(run / "config.yaml").experiment.precision == "fp32"
    engine.pretrain(of("auto", kept_photos), run)
    assert read(run / "config.yaml").experiment.precision == "fp32"
    assert len(final(run)) > 0
    assert_same(run, whole())
    assert read_jsonl(run / "metrics.jsonl")[-1]["step"] == 6
