"""Sides of a comparison: one process each, which take turns, so that a noisy machine disturbs all alike."""

import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Figure:
    """What one side needed."""

    seconds: float  # median over rounds, wall
    processor: float  # median over rounds, all threads: the steadier number on a shared machine
    memory: float  # MB at the peak of the process


def compared(commands: Mapping[str, Sequence[str]], *, rounds: int) -> dict[str, Figure]:
    """Let each command, which calls `answer`, work once per round in turn.

    Args:
        commands: side -> words of a command.
    """
    workers = {
        side: subprocess.Popen(
            list(words), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        for side, words in commands.items()
    }
    measured: dict[str, list[tuple[float, ...]]] = {side: [] for side in commands}
    try:
        for side, worker in workers.items():
            word = _line(worker)
            assert word == "ready", f"{side} said {word!r}"
        for _ in range(rounds):
            for side, worker in workers.items():
                assert worker.stdin is not None
                worker.stdin.write("go\n")
                worker.stdin.flush()
                measured[side].append(tuple(map(float, _line(worker).split())))
    finally:
        for worker in workers.values():
            worker.kill()
            worker.wait()
    return {
        side: Figure(*(statistics.median(column) for column in list(zip(*rows, strict=True))[:2]), rows[-1][2])
        for side, rows in measured.items()
    }


def answer(work: Callable[[], object]) -> None:
    """Work once to warm up, then once for each line on standard input; answer with seconds and the memory so far."""
    work()
    print("ready", flush=True)
    for _ in sys.stdin:
        wall, processor = time.perf_counter(), time.process_time()
        work()
        print(time.perf_counter() - wall, time.process_time() - processor, peak_memory(), flush=True)


def peak_memory() -> float:
    """Return the largest resident memory of this process so far, in MB."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss of a new process begins with what its parent had
        return next(int(line.split()[1]) for line in status.open() if line.startswith("VmHWM")) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def _line(worker: "subprocess.Popen[str]") -> str:
    assert worker.stdout is not None
    return worker.stdout.readline().strip()
