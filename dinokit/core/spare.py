"""Copies of this process that wait to be told which command to be: what takes seconds to import, they have imported.

A copy (fork) is safe as long as no other thread runs, which might hold what nobody would let go of in the copy, or be
waited for there, as OpenMP's are. Those of OpenBLAS end before a copy is made, and begin again when they are needed, so
threads are counted afterwards. Where copies are not safe there are none: macOS, Windows, notebooks, after the first
large product; `child.start` starts another process from nothing.
"""

import json
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, NoReturn, final

import torch

from dinokit.core import child
from dinokit.core.stopping import SIGNALS

if sys.platform != "win32":  # which has no copies either
    import fcntl

PAUSE = 0.01  # seconds between two looks at a process


@final
class Spare:
    """A copy that waits; once it is told, what subprocess.Popen is of another process.

    Args:
        orders: end of a pipe on which it waits; one that is closed without a word lets it end.
        complaints: receives its standard error.
    """

    def __init__(self, pid: int, orders: int, complaints: IO[bytes]) -> None:
        self.pid, self.orders, self.complaints = pid, orders, complaints
        self.returncode: int | None = None  # negative: the signal that ended it

    def begin(self, words: Sequence[str], environment: Mapping[str, str], *, threads: int) -> None:
        """Let it be `dinokit WORDS`, with these variables besides those that it has, and so many threads."""
        order = json.dumps([list(words), dict(environment), threads]).encode()
        with suppress(BrokenPipeError), open(self.orders, "wb") as pipe:  # one that was killed is found by `poll`
            pipe.write(order)

    def dismiss(self) -> None:
        """End it before it has done anything; one that cannot reach its pipe would not end by itself."""
        self.kill()
        self.wait()
        os.close(self.orders)
        self.complaints.close()

    def poll(self) -> int | None:
        """Return its exit code if it has ended."""
        if self.returncode is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:  # SIGCHLD is ignored: nobody knows how it ended, which counts as well
                pid, status = self.pid, 0
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return its exit code.

        Raises:
            subprocess.TimeoutExpired: if that has not come after so many seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() >= deadline:
                raise subprocess.TimeoutExpired("dinokit", timeout or 0.0)
            time.sleep(PAUSE)
        return code

    def kill(self) -> None:
        """End it at once."""
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it has ended since, and nobody kept its number, see `poll`
                os.kill(self.pid, signal.SIGKILL)


def spares(complaints: Sequence[IO[bytes]]) -> list[Spare]:
    """Copy this process so many times, in sessions of their own; none if that is not safe here, or refused.

    Args:
        complaints: of each a file, which is closed when there is no copy.
    """
    made: list[Spare] = []
    if sys.platform == "linux" and threading.active_count() == 1:
        with suppress(OSError):  # no more processes, files or memory
            for each in complaints:
                made.append(_copy(each, [other.orders for other in made]))
    if len(made) == len(complaints) and _alone():
        return made
    for spare in made:
        spare.dismiss()
    for each in complaints[len(made) :]:
        each.close()
    return []


def _alone() -> bool:
    return len(list(Path("/proc/self/task").iterdir())) == 1


def _copy(complaints: IO[bytes], others: Sequence[int]) -> Spare:
    waiting, orders = os.pipe()
    parent = os.getpid()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads, which `spares` counts itself
        try:
            pid = os.fork()
        except OSError:
            os.close(waiting)
            os.close(orders)
            raise
    if pid == 0:
        for end in (orders, *others):  # which would never be closed for those that wait on them
            os.close(end)
        _wait(waiting, parent, complaints)
    os.close(waiting)
    return Spare(pid, orders, complaints)


def _wait(waiting: int, parent: int, complaints: IO[bytes]) -> NoReturn:
    """Be the copy: nothing of what this process was about to do happens, and nothing of it is cleaned up."""
    code = 1
    try:
        os.setsid()  # Ctrl-C is for the other process alone
        for number in SIGNALS:
            if callable(signal.getsignal(number)):
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        # above 2, where they may lie if those are closed
        waiting, complaining = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 3) for end in (waiting, complaints.fileno()))
        nothing = os.open(os.devnull, os.O_RDWR)
        for own, other in enumerate((nothing, nothing, complaining)):
            os.dup2(other, own)
        sys.stdout, sys.stderr = (os.fdopen(own, "w", closefd=False) for own in (1, 2))
        with open(waiting, "rb") as pipe:
            order = pipe.read()
        if order:
            words, environment, threads = json.loads(order)
            os.environ.update(environment | child.known_by(parent))
            torch.set_num_threads(threads)
            sys.argv = ["dinokit", *words]
            runpy.run_module("dinokit", run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(OSError):
            sys.stderr.flush()
        os._exit(code)
