"""Commands that run in processes of their own without the seconds that one takes to import torch.

They are forked off the process that the ranks of all tests are (tests/ranks.py). What tests of a process itself, its
imports and its exit, starts `python -m dinokit`.
"""

import os
import resource
import signal
import sys
from collections.abc import Mapping
from multiprocessing import get_context
from pathlib import Path

from dinokit import cli
from tests import ranks  # noqa: F401 (says what is imported there)


class Started:
    """A command that runs, with the words of `subprocess.Popen`."""

    def __init__(
        self,
        *words: object,
        said: Path | None = None,
        largest_file: int = 0,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Begin `dinokit WORDS`.

        Args:
            said: to which its standard error is added; without it nobody reads that.
            largest_file: octets beyond which no file can grow, as on a disk that is full; 0 is no limit.
            environment: variables besides those of this process.
        """
        texts, place = [str(word) for word in words], str(said or os.devnull)
        self._process = get_context("forkserver").Process(
            target=_run, args=(texts, place, largest_file, dict(os.environ) | dict(environment or {}))
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Return its exit code if it has ended; negative: the signal that ended it."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return its exit code."""
        self._process.join(timeout)
        code = self.poll()
        assert code is not None, f"no end after {timeout} seconds"
        return code

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it has not ended."""
        if self.poll() is None:
            os.kill(self.pid, number)


def _run(words: list[str], said: str, largest_file: int, environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for number, place in ((1, os.devnull), (2, said)):
        os.dup2(os.open(place, os.O_WRONLY | os.O_APPEND | os.O_CREAT), number)
    if largest_file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    sys.argv = ["dinokit", *words]
    cli.main()
