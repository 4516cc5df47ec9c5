"""A run that is hit again and again ends with the weights of one that was left alone."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest

from dinokit.checkpoints.store import RunFolder
from dinokit.config import to_yaml
from dinokit.core.files import read_jsonl
from dinokit.core.messages import RunError
from dinokit.run import engine
from tests.run.test_engine import assert_same, config
from tests.started import Started

STEPS, FAULTS = 120, 32


def damage(run: Path, how: str) -> None:
    """Cut the newest state in half, flip one bit in its middle, or remove it."""
    folder = RunFolder(run)
    state = folder.checkpoint(folder.steps(with_state=True)[-1]) / "state.safetensors"
    content = bytearray(state.read_bytes())
    if how == "flip":
        content[len(content) // 2] ^= 1
        state.write_bytes(content)
    elif how == "cut":
        state.write_bytes(content[: len(content) // 2])
    else:
        state.unlink()


@pytest.mark.parametrize("how", ["flip", "cut", "remove"])
def test_the_newest_whole_checkpoint_is_used_and_the_damaged_one_named(
    kept_photos: Path, whole: Callable[[], Path], tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(whole(), tmp_path / "run")
    damage(tmp_path / "run", how)
    capsys.readouterr()
    engine.pretrain(config(kept_photos), tmp_path / "run")
    said = capsys.readouterr().err
    assert "is damaged" in said
    assert "continuing from step 4" in said
    assert_same(whole(), tmp_path / "run")


def test_a_run_of_before_there_were_checksums_continues(
    kept_photos: Path, whole: Callable[[], Path], tmp_path: Path
) -> None:
    shutil.copytree(whole(), tmp_path / "run")
    for path in (tmp_path / "run").rglob("checksums.json"):
        path.unlink()
    engine.pretrain(config(kept_photos), tmp_path / "run")
    damage(tmp_path / "run", "flip")  # nobody can know
    engine.pretrain(config(kept_photos), tmp_path / "run")


def test_a_damaged_list_of_checksums_is_damage(photos: Path, tmp_path: Path) -> None:
    engine.pretrain(config(photos, steps=2, keep=1), tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "2" / "checksums.json").write_text("[1")
    with pytest.raises(RunError, match="is damaged"):
        engine.pretrain(config(photos, steps=2, keep=1), tmp_path / "run")


def children(parent: int) -> list[int]:
    """Return the processes that a process has started."""
    words = ["ps", "-o", "pid=,args=", "--ppid", str(parent)]
    listed = subprocess.run(words, capture_output=True, text=True, check=False).stdout.splitlines()
    return [int(line.split()[0]) for line in listed if "dinokit" in line]


@pytest.mark.slow  # torch notices a dead worker after 5 seconds
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_killed_loader_process_is_one_line_after_a_checkpoint(photos: Path, tmp_path: Path, ranks: int) -> None:
    settings = config(photos, steps=30, checkpoint_every=1000, workers=2, processes=ranks)
    (tmp_path / "config.yaml").write_text(to_yaml(settings))
    run = tmp_path / "run"
    words = ["pretrain", str(tmp_path / "config.yaml"), "--out", str(run)]
    with (tmp_path / "said").open("ab") as file:
        process = subprocess.Popen([sys.executable, "-m", "dinokit", *words], stderr=file)
    assert advanced(run, process, 3)
    # of two ranks the other is a child as the loader's are, but has children itself
    of = process.pid if ranks == 1 else next(each for each in children(process.pid) if children(each))
    os.kill(children(of)[-1], signal.SIGKILL)
    assert process.wait(60) == 3
    said = (tmp_path / "said").read_text().splitlines()
    assert "a loader process was killed (SIGKILL)" in said[-1]
    assert said[-1].endswith(f"saved is step {newest_line(run)}; the same command continues")
    assert not any("Traceback" in line for line in said)
    if ranks == 1:
        engine.pretrain(settings, run)
        engine.pretrain(config(photos, steps=30, checkpoint_every=1000), tmp_path / "whole")
        assert_same(tmp_path / "whole", run)


def start(folder: Path, run: Path, *, largest_file: int = 0) -> Started:
    """Start the command; no file that it writes can grow beyond a size, as on a disk that is full."""
    words = ("pretrain", folder / "config.yaml", "--out", run)
    return Started(*words, said=folder / "said", largest_file=largest_file)


def advanced(run: Path, process: "Started | subprocess.Popen[bytes]", steps: int) -> bool:
    """Wait until a start has done some steps; no if it has ended before."""
    began, deadline = newest_line(run), time.monotonic() + 120
    while newest_line(run) < began + steps:
        assert time.monotonic() < deadline, "the run does not advance"
        if process.poll() is not None:
            return False
        time.sleep(0.005)
    return True


def newest_line(run: Path) -> int:
    return max((line["step"] for line in read_jsonl(run / "metrics.jsonl")), default=0)


def hit(draw: numpy.random.Generator, folder: Path, run: Path) -> str:
    """Let something happen to a start of the run, and say what."""
    kinds: dict[str, Callable[[], int]] = {
        "kill": lambda: signalled(draw, folder, run, signal.SIGKILL),
        "term": lambda: signalled(draw, folder, run, signal.SIGTERM),
        "usr1": lambda: signalled(draw, folder, run, signal.SIGUSR1),
        "disk": lambda: start(folder, run, largest_file=int(draw.choice([9_000, 30_000]))).wait(),
        "flip": lambda: damaged(run, "flip"),
        "cut": lambda: damaged(run, "cut"),
    }
    kind = str(draw.choice(list(kinds), p=[0.4, 0.15, 0.15, 0.1, 0.1, 0.1]))
    return f"{kind} {kinds[kind]()}"


def signalled(draw: numpy.random.Generator, folder: Path, run: Path, number: signal.Signals) -> int:
    process = start(folder, run)
    advanced(run, process, int(draw.integers(0, 9)))
    time.sleep(float(draw.uniform(0, 0.2)))
    process.send_signal(number)
    return process.wait()


def damaged(run: Path, how: str) -> int:
    steps = RunFolder(run).steps(with_state=True)
    if len(steps) > 1:  # of one alone nothing would be left
        damage(run, how)
    return len(steps)


@pytest.mark.slow  # 33 starts
def test_thirty_two_faults_at_random_moments_change_nothing(photos: Path, tmp_path: Path) -> None:
    settings = config(photos, steps=STEPS, checkpoint_every=3)
    (tmp_path / "config.yaml").write_text(to_yaml(settings))
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    engine.pretrain(settings, whole)
    draw = numpy.random.default_rng(0)
    happened = [hit(draw, tmp_path, broken) for _ in range(FAULTS)]
    assert start(tmp_path, broken).wait() == 0, (tmp_path / "said").read_text()
    assert_same(whole, broken)
    for kind in ("kill -9", "term 130", "usr1 130", "disk 3", "flip 2", "cut 2"):
        assert kind in happened, (happened, (tmp_path / "said").read_text())
    assert "Traceback" not in (tmp_path / "said").read_text()
