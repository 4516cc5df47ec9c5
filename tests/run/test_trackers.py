"""Trackers in their offline modes: one entry per run, whatever interrupts it, and never the end of one."""

import json
import os
import shutil
import sqlite3
import sys
from pathlib import Path

import pytest

from dinokit.checkpoints.store import RunFolder
from dinokit.core.messages import UserError
from dinokit.run.trackers import KINDS, Trackers
from tests.run.test_engine import config


@pytest.fixture(scope="module")
def trackio_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all tests: the library reads the variable when it is imported."""
    folder = tmp_path_factory.mktemp("trackio")
    os.environ["TRACKIO_DIR"] = str(folder)
    return folder


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, trackio_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'mlruns'}")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("TRACKIO_PROJECT", tmp_path.name)


def opened(folder: Path, *names: str, start: int = 1, tensorboard: bool = False) -> Trackers:
    folder.mkdir(exist_ok=True)
    return Trackers(RunFolder(folder), config(folder, trackers=names, tensorboard=tensorboard), start=start)


def logged_twice(folder: Path, name: str) -> None:
    """Steps 10 and 20, then a new start that goes back to 10 and on to 20 again."""
    for value in (1.0, 2.0):
        trackers = opened(folder, name)
        trackers.log({"loss": value, "grad_norm/backbone": 3.0}, step=10)
        trackers.log({"loss": value + 0.5}, step=20)
        trackers.close()


@pytest.mark.slow  # its import takes seconds
def test_mlflow_holds_settings_and_numbers_in_one_run(tmp_path: Path) -> None:
    import mlflow

    logged_twice(tmp_path / "run", "mlflow")
    client = mlflow.MlflowClient()
    found = client.search_runs([client.get_experiment_by_name("dinokit").experiment_id])
    assert len(found) == 1
    assert found[0].info.status == "FINISHED"
    assert found[0].data.params["backbone.dim"] == "16"
    history = client.get_metric_history(found[0].info.run_id, "loss")
    assert [(each.step, each.value) for each in history] == [(10, 1.0), (20, 1.5), (10, 2.0), (20, 2.5)]


def test_trackio_holds_settings_and_numbers_in_one_run(
    tmp_path: Path, trackio_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logged_twice(tmp_path / "run", "trackio")
    assert capsys.readouterr().out == ""
    with sqlite3.connect(trackio_folder / f"{tmp_path.name}.db") as database:
        rows = database.execute("select run_name, step, metrics from metrics order by id").fetchall()
        settings = [json.loads(row[0]) for row in database.execute("select config from configs")]
    assert len({name for name, _, _ in rows}) == 1
    assert [(step, json.loads(metrics)["loss"]) for _, step, metrics in rows] == [
        (10, 1.0),
        (20, 1.5),
        (10, 2.0),
        (20, 2.5),
    ]
    assert any(each.get("backbone.dim") == 16 for each in settings)


@pytest.mark.slow  # its process takes seconds to start; what is told to a tracker is seen by the others
def test_wandb_continues_under_one_identity(tmp_path: Path) -> None:
    logged_twice(tmp_path / "run", "wandb")
    files = list((tmp_path / "run" / "events" / "wandb").rglob("*.wandb"))
    assert files
    identity = json.loads((tmp_path / "run" / "events" / "trackers.json").read_text())["wandb"]
    assert {path.name for path in files} == {f"run-{identity}.wandb"}
    written = b"".join(path.read_bytes() for path in files)
    for word in (b"grad_norm/backbone", b"backbone.dim"):
        assert word in written


@pytest.mark.parametrize("name", list(KINDS))
def test_one_that_is_not_installed_is_named_with_its_extra(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=rf"pip install 'dinokit\[{name}\]'"):
        opened(tmp_path / "run", name)


def test_one_that_cannot_begin_is_a_mistake_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError, match="mlflow cannot begin") as caught:
        opened(tmp_path / "run", "mlflow")
    assert "\n" not in str(caught.value)


def test_one_that_fails_later_is_left_out_and_the_others_go_on(
    tmp_path: Path, trackio_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trackers = opened(tmp_path / "run", "mlflow", "trackio")
    shutil.rmtree(tmp_path / "mlruns")
    for step in (1, 2):
        trackers.log({"loss": 1.0}, step=step)
    trackers.close()
    assert capsys.readouterr().err.count("mlflow failed") == 1
    with sqlite3.connect(trackio_folder / f"{tmp_path.name}.db") as database:
        assert database.execute("select count(*) from metrics").fetchone() == (2,)


def test_tensorboard_forgets_the_steps_that_a_run_takes_again(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for start, steps in ((1, (1, 2, 3)), (2, (2,))):
        trackers = opened(tmp_path / "run", tensorboard=True, start=start)
        for step in steps:
            trackers.log({"loss": float(step * start)}, step=step)
        trackers.close()
    events = EventAccumulator(str(tmp_path / "run" / "events")).Reload()
    assert [(each.step, each.value) for each in events.Scalars("loss")] == [(1, 1.0), (2, 4.0)]


def test_a_memory_that_is_something_else_begins_anew(tmp_path: Path, trackio_folder: Path) -> None:
    (tmp_path / "run" / "events").mkdir(parents=True)
    (tmp_path / "run" / "events" / "trackers.json").write_text("[not what we wrote")
    opened(tmp_path / "run", "trackio").close()
    assert list(json.loads((tmp_path / "run" / "events" / "trackers.json").read_text())) == ["trackio"]
