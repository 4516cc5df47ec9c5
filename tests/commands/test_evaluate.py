"""`dinokit evaluate` from outside: kills and ranks change no number."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dinokit.commands.evaluate import evaluate
from dinokit.core.messages import RunError
from dinokit.dense import fit
from tests.conftest import MakeFolder
from tests.evaluation.detectors import make_small
from tests.evaluation.test_detection import scenes
from tests.sources import instance_sets
from tests.started import Started

FILES = tuple(
    f"{split}/{kind}/{number}.png"
    for split, count in (("train", 150), ("test", 50))
    for kind in "ab"
    for number in range(count)
)


def command(task: str, model: Path, data: Path, out: Path, *words: str) -> list[str]:
    fast = {"logreg": ["--c", "[0.1, 1]"], "attentive": ["--passes", "2"]}.get(task, [])
    start = ["evaluate", task, "--model", str(model), "--data", str(data)]
    return [*start, "--out", str(out), *fast, *words]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["knn", "logreg", "attentive", "retrieval"])
def test_a_task_that_was_killed_three_times_gives_the_same_json(
    task: str, make_run: MakeFolder, make_folder: MakeFolder, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.mktemp("place")
    data = make_folder(*FILES, tinted=False)
    model = make_run(str(data), steps=(0,)) / "checkpoints" / "0"
    whole, out, cache = place / "whole.json", place / "out.json", place / "cache"

    def start(written: Path, kept: Path) -> Started:
        words, said = command(task, model, data, written), place / "said"
        return Started(*words, said=said, environment={"DINOKIT_CACHE": str(kept)})

    assert start(whole, place / "other").wait() == 0, (place / "said").read_text()
    for parts in (0, 1, 2):  # that are there when the kill comes
        process = start(out, cache)
        while process.poll() is None and len(list(cache.glob("features/*/*.keys"))) < parts:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert start(out, cache).wait() == 0, (place / "said").read_text()
    assert json.loads(out.read_text()) == json.loads(whole.read_text())


@pytest.mark.slow
def test_ranks_share_the_images_and_change_no_number(
    make_run: MakeFolder, make_folder: MakeFolder, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.mktemp("place")
    data = make_folder(*FILES, tinted=False)
    model = make_run(str(data), steps=(0,)) / "checkpoints" / "0"
    found = []
    for ranks in ("1", "2"):
        words = command("knn", model, data, place / f"{ranks}.json", "--processes", ranks)
        done = subprocess.run(
            [sys.executable, "-m", "dinokit", *words],
            env={**os.environ, "DINOKIT_CACHE": str(place / ranks), "OMP_NUM_THREADS": "1"},
            check=True,
            capture_output=True,
            text=True,
        )
        found.append((json.loads((place / f"{ranks}.json").read_text()), done.stdout.splitlines()[0]))
    assert found[0] == found[1]


def test_the_word_before_a_folder_chooses_what_retrieval_measures(make_run: MakeFolder, tmp_path: Path) -> None:
    root = instance_sets.oxford(tmp_path / "roxford5k")
    model = make_run(str(root), steps=(0,)) / "checkpoints" / "0"
    save = tmp_path / "saved"
    rows = evaluate("retrieval", model=str(model), data=f"roxford5k:{tmp_path}", save=save, size=16)
    assert list(rows) == [str(model), "random-init", "raw-pixels"]
    assert all(next(iter(row)) == "mAP/medium" for row in rows.values())
    kept = json.loads((save / "retrieval.json").read_text())
    assert kept["shown"] == ["Padded(size=16, patch_size=4)"]
    assert kept["intervals"]["mAP/hard"][0] <= kept["mAP/hard"] <= kept["intervals"]["mAP/hard"][1]


def test_a_detector_is_saved_with_its_page(
    make_run: MakeFolder, make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_small(monkeypatch)
    model = make_run(str(make_folder("a/0.png", "a/1.png")), steps=(0,)) / "checkpoints" / "0"
    data = scenes(tmp_path / "data", counts={"train": 2, "val": 2})
    settings = {"iterations": 1, "batch_size": 1, "size": 32, "queries": 2, "baselines": False}
    rows = evaluate("detection", model=str(model), data=str(data), save=tmp_path / "out", **settings)
    page = (tmp_path / "out" / "index.html").read_text()
    assert f"AP {rows[str(model)]['AP']:.1f} %" in page
    assert "Loss in training" in page
    evaluate(
        "detection", model=str(model), data=str(data), save=tmp_path / "again", head=str(tmp_path / "out" / "head")
    )
    assert "Loss in training" not in (tmp_path / "again" / "index.html").read_text()


def test_a_baseline_of_a_detector_is_not_trained_twice(
    make_run: MakeFolder, make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_run(str(make_folder("a/0.png", "a/1.png")), steps=(0,)) / "checkpoints" / "0"
    data, save = scenes(tmp_path / "data", counts={"train": 2, "val": 1}), tmp_path / "out"
    make_small(monkeypatch)
    steps, last, stepped = [0], [5], fit._stepped

    def counted(*arguments: Any, **named: Any) -> Any:
        steps[0] += 1
        if steps[0] == last[0] + 1:
            raise RunError("ended here")
        return stepped(*arguments, **named)

    def measured() -> dict[str, dict[str, float]]:
        settings = {"iterations": 2, "batch_size": 1, "size": 16, "queries": 2}
        return evaluate("detection", model=str(model), data=str(data), save=save, **settings)

    monkeypatch.setattr(fit, "_stepped", counted)
    with pytest.raises(RunError, match="ended here"):
        measured()  # before the last step of the last baseline
    last[0] = 1000
    rows = measured()
    assert steps[0] == 5 + 1 + 1  # the first step of the last baseline was kept
    assert list(rows) == [str(model), "random-init", "raw-pixels"]
    assert rows == measured()
    assert steps[0] == 7
    assert not list((save / "baselines").glob("*/features"))
