"""What rows of benchmarks/against.py are made of: two builds, how they are run, and lines of the table."""

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sides import Figure

HERE = Path(__file__).resolve().parents[1]  # benchmarks/
BUILDS = ("old", "today")


@dataclass(frozen=True, kw_only=True)
class Line:
    """A figure of both builds."""

    measured: str  # with its unit
    of: Mapping[str, float]  # build -> figure; empty if there is none
    wanted: str = ""
    missing: str = ""  # why there is none


@dataclass(frozen=True, kw_only=True)
class Builds:
    """Which builds are compared, beside whom, and how long."""

    old: str  # interpreters
    today: str = sys.executable
    rounds: int = 5
    threads: int  # of a side
    dtypes: Sequence[str] = ("fp32",)  # of features
    photos: Path | None = None  # a folder of JPEGs
    lightly: str | None = None  # an interpreter that has LightlyTrain
    seeds: Sequence[int] = ()  # of whole trainings

    def command(self, build: str, *words: str, threads: int | None = None) -> list[str]:
        """Return the words of a shell that run a build's interpreter.

        Args:
            threads: of the process; null: as many as there are to be, 0: not said, as in a user's shell.
        """
        count = self.threads if threads is None else threads
        path = ["-u", "PYTHONPATH"] if build == "old" else []  # which may name today's build
        said = [f"OMP_NUM_THREADS={count}"] if count else []
        return ["env", *path, "-u", "OMP_NUM_THREADS", *said, getattr(self, build), *words]

    def script(self, build: str, name: str, *words: str, threads: int | None = None) -> list[str]:
        """Return the words that run a file of benchmarks/."""
        return self.command(build, str(HERE / name), *words, threads=threads)


Row = Callable[[Builds], Iterator[Line]]


def figures(found: Mapping[str, Figure], wanted: Mapping[str, str]) -> Iterator[Line]:
    """Make lines of what both builds needed.

    Args:
        wanted: "s" or "peak MB" -> a word on what is to be reached.
    """
    yield Line(measured="s", of={build: each.seconds for build, each in found.items()}, wanted=wanted.get("s", ""))
    yield Line(measured="s of a processor", of={build: each.processor for build, each in found.items()})
    memory = {build: each.memory for build, each in found.items()}
    yield Line(measured="peak MB", of=memory, wanted=wanted.get("peak MB", ""))


def said(words: Sequence[str]) -> str:
    """Return the last line that a command prints."""
    done = subprocess.run(list(words), capture_output=True, text=True)
    lines, complaints = (text.strip().splitlines() for text in (done.stdout, done.stderr))
    if done.returncode or not lines:
        raise SystemExit(f"{' '.join(words)} has ended with {done.returncode}: {(complaints or ['no word'])[-1]}")
    return lines[-1]
