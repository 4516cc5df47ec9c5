"""Sides of a comparison: one process each, which take turns, so that a noisy machine disturbs all alike."""

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

WARMING = 8  # times at most that a side works before it is measured


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
    Raises:
        SystemExit: a side has ended, with its last words.
    """
    measured: dict[str, list[tuple[float, ...]]] = {side: [] for side in commands}
    with ExitStack() as opened:
        workers = {side: opened.enter_context(_Worker(side, words)) for side, words in commands.items()}
        for worker in workers.values():
            worker.said()  # that it is ready
        for _ in range(rounds):
            for side, worker in workers.items():
                worker.say("go")
                measured[side].append(tuple(map(float, worker.said().split())))
    found = {}
    for side, rows in measured.items():
        wall, processor, memory = zip(*rows, strict=True)
        found[side] = Figure(statistics.median(wall), statistics.median(processor), memory[-1])
    return found


def answer(work: Callable[[], object], *, least: float = 0.0) -> None:
    """Work to warm up, then for each line on standard input; answer with seconds and the memory so far.

    Warm is who needs no more memory than the time before, for new pages are slow: views, of which the heap finds room
    for a pass only after one to six, took 0.15 s and another 0.17 s in the kernel as long as it grew.

    Args:
        least: seconds in which what is short is done again and again; the answer is of once, in the mean.
    """
    peak = 0.0
    for times in range(WARMING):
        work()
        before, peak = peak, peak_memory()
        if times and peak < before + 1:
            break
    print("ready", flush=True)
    for _ in sys.stdin:
        wall, processor, times = time.perf_counter(), time.process_time(), 0
        while not times or time.perf_counter() - wall < least:
            work()
            times += 1
        seconds = time.perf_counter() - wall, time.process_time() - processor
        print(*(each / times for each in seconds), peak_memory(), flush=True)


def peak_memory() -> float:
    """Return the largest resident memory of this process so far, in MB."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss of a new process begins with what its parent had
        return next(int(line.split()[1]) for line in status.open() if line.startswith("VmHWM")) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


class _Worker:
    """A side's process, killed at the end."""

    def __init__(self, side: str, words: Sequence[str]) -> None:
        self.side, self.words = side, list(words)

    def __enter__(self) -> "_Worker":
        self.complaints: IO[str] = tempfile.TemporaryFile("w+", errors="replace")
        self.process = subprocess.Popen(
            self.words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.complaints, text=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
        self.complaints.close()

    def say(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()

    def said(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        if not line:
            self.complaints.seek(0)
            last = [each.strip() for each in self.complaints if each.strip()][-1:]
            raise SystemExit(f"{self.side} has ended: {last[0] if last else 'it said nothing'}")
        return line
