"""Teachers are measured beside the training: nothing of it changes, nothing stops it, nothing is forgotten."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dinokit.checkpoints.store import RunFolder
from dinokit.commands.beside import Beside
from dinokit.commands.measuring import Asked
from dinokit.core.files import append_jsonl, read_jsonl
from tests.commands.test_cli import TINY, photos, run

__all__ = ["photos"]

FOUR = ["--steps", "4", *TINY[2:6], "--checkpoint_every", "4", *TINY[8:]]


def beside(folder: Path, photos: Path, *tasks: str, due: Callable[[int], bool] = lambda step: True) -> Beside:
    asked = Asked(tuple((task, "") for task in tasks), str(photos), beside=True)
    return Beside(RunFolder(folder), asked, device="cpu", due=due)


def results(folder: Path) -> list[tuple[object, ...]]:
    lines = [line for line in read_jsonl(folder / "metrics.jsonl") if "evaluation" in line]
    return [(line["step"], line["evaluation"], line["model"]) for line in lines if "failed" not in line]


def failures(folder: Path) -> list[str]:
    return [str(line["failed"]) for line in read_jsonl(folder / "metrics.jsonl") if "failed" in line]


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_a_run_that_is_measured_beside_learns_the_same_to_the_bit_and_ends_well(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["pretrain", "demo", "--data", photos, *FOUR]
    assert run(*words, "--out", tmp_path / "alone", "--eval.tasks", "null") == 0
    capsys.readouterr()
    out = tmp_path / "measured"
    assert run(*words, "--out", out, "--eval.tasks", "segmentation,knn", "--eval.every", "3") == 0
    said = capsys.readouterr().err
    for name in ("state.safetensors", "model.safetensors"):
        same = [(folder / "checkpoints" / "4" / name).read_bytes() for folder in (tmp_path / "alone", out)]
        assert same[0] == same[1]
    assert RunFolder(out).steps() == [0, 3, 4]  # the teacher of step 3 was saved to be measured
    models = [(0, "random-init"), (0, "raw-pixels"), (3, "teacher"), (4, "teacher")]
    assert sorted(results(out)) == [(step, "knn", model) for step, model in models]
    assert len(failures(out)) == 1  # a task that the data do not allow: a line, a warning and a place in the report
    assert said.count("warning: segmentation is not measured: expected") == 1
    assert "step 4 · k-NN (k = 20): teacher" in said
    assert "segmentation, step 0" in (out / "report.html").read_text()
    assert (out / "best.safetensors").exists()


@pytest.mark.slow
def test_a_start_measures_what_is_missing_the_untrained_first_and_then_the_newest(
    photos: Path, make_run: Callable[..., Path]
) -> None:
    folder = make_run(str(photos), steps=(0, 10, 20, 30))
    append_jsonl(folder / "metrics.jsonl", {"step": 20, "evaluation": "knn", "model": "teacher", "top1@20": 50.0})
    assert beside(folder, photos, "knn", due=lambda step: step != 10).finish()
    expected = [(20, "teacher"), (0, "random-init"), (0, "raw-pixels"), (30, "teacher")]
    assert results(folder) == [(step, "knn", model) for step, model in expected]
    assert beside(folder, photos, "knn", due=lambda step: step != 10).finish()
    assert len(results(folder)) == 4


@pytest.mark.slow  # processes of its own
def test_a_killed_process_costs_what_it_was_at(
    photos: Path, make_run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_run(str(photos), steps=(10,))
    measuring = beside(folder, photos, "logreg", "knn")
    measuring.start()
    assert measuring.pid is not None
    assert os.getpriority(os.PRIO_PROCESS, measuring.pid) >= min(os.getpriority(os.PRIO_PROCESS, 0) + 10, 19)
    os.kill(measuring.pid, signal.SIGKILL)
    until(lambda: measuring.look() or bool(failures(folder)))
    assert failures(folder) == ["the process that measures: killed by SIGKILL"]
    assert measuring.finish()
    assert results(folder) == [(10, "knn", "teacher")]
    assert "warning: logreg of step 10 is not measured: the process that measures" in capsys.readouterr().err


@pytest.mark.slow  # processes of its own
def test_a_process_that_cannot_begin_is_started_once(
    photos: Path, make_run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_run(str(photos), steps=(10, 20))
    asked = Asked((("knn", ""),), str(photos), beside=True)
    assert Beside(RunFolder(folder), asked, device="nowhere", due=lambda step: True).finish()
    assert len(failures(folder)) == 1
    assert "nowhere" in capsys.readouterr().err


def test_a_wish_to_stop_leaves_what_is_under_way(photos: Path, make_run: Callable[..., Path]) -> None:
    folder = make_run(str(photos), steps=(10,))
    measuring = beside(folder, photos, "knn")
    measuring.start()
    pid = measuring.pid
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    assert not measuring.finish()
    measuring.leave()
    assert pid is not None
    assert not Path(f"/proc/{pid}").exists()
    assert failures(folder) == []  # a later start measures it
