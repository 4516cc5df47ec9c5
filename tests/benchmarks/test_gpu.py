"""The checks of benchmarks/gpu.py work: at tiny sizes on a CPU, and as tests on a GPU where there is one."""

import math
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CHECKS = ("networks", "losses", "step", "resume", "batches", "sharded", "health", "kmeans")
CPU = torch.device("cpu")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The script, imported from where it lies."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu

    yield gpu
    for name in [name for name in sys.modules if name.split(".")[0] in ("gpu", "on_gpu", "peers")]:
        del sys.modules[name]


def faults(gpu: ModuleType, name: str, device: torch.device) -> list[str]:
    rows = list(gpu.BUDGETS[name][0](gpu.Place(device, tiny=True)))
    assert rows, f"{name} found nothing"
    return [f"{row.name}: {row.figure}: {row.fault}" for row in rows if row.fault]


@pytest.mark.parametrize("name", ["losses", "health", "kmeans", pytest.param("small", marks=pytest.mark.slow)])
def test_a_check_finds_nothing_wrong_on_a_cpu(gpu: ModuleType, name: str) -> None:
    assert faults(gpu, name, CPU) == []


@pytest.mark.gpu
@pytest.mark.parametrize("name", CHECKS)
def test_a_check_finds_nothing_wrong_on_a_gpu(gpu: ModuleType, name: str) -> None:
    assert faults(gpu, name, torch.device("cuda", 0)) == []


@pytest.mark.slow  # a process of its own
def test_nothing_is_forgotten_on_the_cpu() -> None:
    words = [sys.executable, "-m", "tests.pretended", "losses", "kmeans", "batches", "health"]
    run = subprocess.run(words, capture_output=True, text=True, cwd=BENCHMARKS.parent)
    assert run.returncode == 0, run.stderr[-2000:]


def test_all_checks_together_take_eight_minutes_at_most(gpu: ModuleType) -> None:
    assert sum(seconds for _, seconds in gpu.BUDGETS.values()) <= 480


def test_the_batch_doubles_until_memory_ends(gpu: ModuleType) -> None:
    seen = []

    def work(batch: int) -> None:
        seen.append(batch)
        if batch > 20:
            raise torch.OutOfMemoryError("full")

    largest = sys.modules["on_gpu.place"].largest
    assert largest(work, first=4, most=1000) == 16
    assert seen == [4, 8, 16, 32]
    assert largest(work, first=4, most=8) == 8
    assert largest(work, first=32, most=64) == 0


def test_a_check_that_fails_or_lasts_too_long_is_a_line(gpu: ModuleType) -> None:
    says = 'print(\'["rate", "3", ""]\', flush=True)'
    python = [sys.executable, "-S", "-c"]
    rate, failed = gpu.measured("it", [*python, f"{says}; raise SystemExit('no memory')"], budget=60)
    assert (rate.name, rate.figure, rate.fault) == ("rate", "3", "")
    assert failed.figure.startswith("exit code 1")
    assert failed.fault == "no memory"
    (late,) = gpu.measured("it", [*python, "import time; time.sleep(60)"], budget=0.2)
    assert (late.figure, late.fault) == ("stopped after 0.2 s", "too slow")


def test_what_a_check_has_started_ends_with_it(gpu: ModuleType) -> None:
    worker = "import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', 'import time; time.sleep(90)'])"
    began = time.monotonic()
    (late,) = gpu.measured("it", [sys.executable, "-S", "-c", worker], budget=2)  # the worker holds its output
    assert late.fault == "too slow"
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize(("worst", "odd"), [("max", 0.3), ("min", 0.1), ("max", math.nan), ("min", math.nan)])
def test_a_figure_that_is_too_far_or_none_is_a_fault(gpu: ModuleType, place: int, worst: str, odd: float) -> None:
    found = dict.fromkeys("abc", 0.2)
    said = {"worst": getattr(torch, worst), "limit": 0.2, "unit": "off by"}
    row = sys.modules["on_gpu.golden"].row
    assert row("losses", found, **said).fault == ""
    judged = row("losses", found | {"abc"[place]: odd}, **said)
    assert (judged.fault, judged.figure) == ("expected 0.2", f"off by {odd:.6g} ({'abc'[place]})")
