"""What is measured of a run's saved teachers, and what is said where it cannot be."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dinokit.checkpoints.store import RunFolder
from dinokit.commands.measuring import MEASURED, Task, headline, measure_here, measured, missing
from dinokit.core.files import read_jsonl
from dinokit.evaluation import base as evaluations
from tests.commands.test_cli import TINY, mistake, photos

__all__ = ["photos"]

KNN = Task("knn", "teacher", "photos", own=False)


def line(step: int, score: float, model: str = "teacher") -> dict[str, object]:
    return {"step": step, "evaluation": "knn", "model": model, "top1@20": score}


def test_a_result_is_not_measured_again_a_failure_and_other_data_are() -> None:
    tasks = [KNN, Task("logreg", "teacher", "photos", own=False), Task("knn", "teacher", "others", own=True)]
    failed = {"step": 10, "evaluation": "logreg", "model": "teacher", "failed": "no memory"}
    assert missing([line(10, 80.0), failed, line(20, 80.0)], tasks, 10) == tasks[1:]


def test_the_headline_is_of_the_newest_step_whatever_the_order_of_lines() -> None:
    failed = {"step": 30, "evaluation": "knn", "model": "teacher", "failed": "killed"}
    lines = [line(0, 60.0, "random-init"), line(20, 84.25), line(10, 70.0), failed, {"step": 40, "loss": 1.0}]
    assert headline(lines, KNN) == "k-NN (k = 20): teacher 84.2 %, random-init 60.0 %"
    error = {"step": 10, "evaluation": "depth", "model": "teacher", "RMSE": 0.5211, "unit": "m"}
    assert headline([error], Task("depth", "teacher", "x", own=False)) == "depth RMSE: teacher 0.521 m"
    assert headline([], KNN) == ""


def test_a_task_that_fails_does_not_stop_the_others(photos: Path, make_run: Callable[..., Path]) -> None:
    run = RunFolder(make_run(str(photos)))
    tasks = [Task(name, "teacher", str(photos), own=False) for name in ("segmentation", "knn")]
    (first, hopeless), (second, fine) = measured(run.checkpoint(10), 10, tasks, torch.device("cpu"))
    assert "expected pairs" in first["failed"]
    assert hopeless  # whatever the step, the data have no masks
    assert second["top1@20"] >= 50
    assert not fine
    assert "unit" not in second
    low, high = second["interval"]
    assert low <= second["top1@20"] <= high
    ((gone, hopeless),) = measured(run.checkpoint(11), 11, tasks[1:], torch.device("cpu"))
    assert "11" in gone["failed"]
    assert not hopeless  # it is this step


def test_the_untrained_and_the_pixels_are_measured_once_by_the_same_settings(
    photos: Path, make_run: Callable[..., Path]
) -> None:
    run = RunFolder(make_run(str(photos)))
    tasks = [Task("knn", model, str(photos), own=True) for model in ("random-init", "raw-pixels")]
    found = [each for each, _ in measured(run.checkpoint(0), 0, tasks, torch.device("cpu"))]
    assert [each["model"] for each in found] == ["random-init", "raw-pixels"]
    assert {each["data"] for each in found} == {str(photos)}
    assert found[0]["queries"] == found[1]["queries"] == 12


def test_a_measurement_between_two_steps_that_fails_is_a_warning(
    make_run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunFolder(make_run("photos"))
    measure_here(run, 10, [Task("knn", "teacher", "/nowhere", own=False)], torch.device("cpu"))
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("warning: step 10 is not measured: ")
    assert [line["failed"] in said for line in read_jsonl(run.metrics)] == [True]


@pytest.mark.parametrize("name", evaluations.names())
def test_every_evaluation_has_settings_for_minutes(name: str) -> None:
    settings = Task(name, "teacher", "data", own=False).settings()
    assert settings.data == "data"
    assert getattr(settings, "protocol", "quick") == "quick"
    assert getattr(evaluations.find(name), "PATCHES", False) or getattr(settings, "limit", MEASURED) == MEASURED


def test_what_cannot_be_measured_is_refused_before_the_first_step(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["pretrain", "demo", "--data", photos, "--out", tmp_path / "run", *TINY]
    assert "did you mean 'logreg'" in mistake(capsys, *words, "--eval.tasks", "knn,logerg")
    assert "there is no" in mistake(capsys, *words, "--eval.tasks", "knn", "--eval.data", tmp_path / "none")
    assert "by data.labels" in mistake(capsys, *words, "--eval.tasks", "knn", "--data.labels", "false")
    assert not (tmp_path / "run").exists()
