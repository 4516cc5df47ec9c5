"""A wish to stop a run: the first signal lets the step end and the run save; a second one acts at once.

The main process answers; the processes that serve it ignore the signals.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

from dinokit.core.messages import is_main

# SIGUSR1: SLURM, before the time is up; SIGBREAK: of Windows, which lacks that and SIGHUP
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGBREAK")
SIGNALS = tuple(signal.Signals(getattr(signal, name)) for name in _NAMES if hasattr(signal, name))


@dataclass
class Stop:
    """Whether somebody asked."""

    requested: bool = False


@contextmanager
def stop_requests(
    saying: str = "stopping after this step; once more to stop at once without saving",
) -> Iterator[Stop]:
    """Turn the first of the signals into a wish to stop after this step.

    A second SIGINT or SIGTERM acts at once; of the others it does nothing, as a terminal that closes may send several.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():  # Python allows handlers in the main thread alone
        yield stop
        return
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    nohup = {number for number, handler in handlers.items() if number.name == "SIGHUP" and handler == signal.SIG_IGN}
    previous = {number: handler for number, handler in handlers.items() if number not in nohup}

    def ask(_number: int, _frame: FrameType | None) -> None:
        if stop.requested:
            return
        stop.requested = True
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, previous[each])
        if is_main():
            # os.write: a handler may interrupt the console in the middle of a line, and stderr may be gone
            with suppress(OSError):
                os.write(2, f"{saying}\n".encode())

    for number in previous:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def ended_as_by_hand() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the body as SIGINT does, so that what is only for its time is removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.getsignal(number) for number in SIGNALS if number.name in ("SIGTERM", "SIGHUP")}
    meant = {number: handler for number, handler in previous.items() if handler is signal.SIG_DFL}  # not nohup's
    for number in meant:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in meant.items():
            signal.signal(number, handler)
