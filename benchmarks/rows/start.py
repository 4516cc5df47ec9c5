"""The row of the start: seconds from the command to its first line of progress, with a step and a loss."""

import os
import re
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress

from rows.line import BUILDS, Builds, Line

PROGRESS = re.compile(r"step \d.* loss ")
WORDS = ("-m", "dinokit", "pretrain", "demo", "--data", "demo:fashion", "--out", "run")


def lines(builds: Builds) -> Iterator[Line]:
    """Compare new trainings, which are killed once they have begun."""
    taken: dict[str, list[float]] = {build: [] for build in BUILDS}
    for _ in range(builds.rounds):
        for build in BUILDS:
            taken[build].append(seconds(builds.command(build, *WORDS, threads=0)))
    median = {build: statistics.median(found) for build, found in taken.items()}
    yield Line(measured="s to the first line of demo", of=median, wanted="at most 3 s")


def seconds(command: Sequence[str]) -> float:
    """Wait for the first line of progress of a command that runs in a folder of its own, and end it."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        began = time.monotonic()
        process = subprocess.Popen(
            list(command),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            start_new_session=True,
        )
        last = "no word"
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if PROGRESS.match(line):
                    return time.monotonic() - began
                last = line.strip() or last
        finally:
            _end(process)
    raise SystemExit(f"{' '.join(command)} has ended before its first step: {last}")


def _end(process: "subprocess.Popen[str]") -> None:
    """Kill a process and its ranks."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


ROWS = {"first line": lines}
