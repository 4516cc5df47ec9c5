"""Another process of this very dinokit, started beside this one: it ends when this one does, however that happens."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

if sys.platform == "win32":
    import _winapi
    import msvcrt

_PARENT = "DINOKIT_PARENT"  # in the environment of such a process: who has started it


def start(
    module: str, *words: str, environment: Mapping[str, str], output: int, complaints: IO[bytes]
) -> "subprocess.Popen[bytes]":
    """Start a module, whatever lies in the current folder, in a session of its own: Ctrl-C is for this process alone.

    Args:
        environment: all of it.
        output: DEVNULL or PIPE.
        complaints: receives its standard error.
    """
    home = str(Path(__file__).parents[2])
    path = os.pathsep.join([home, *filter(None, [environment.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, "-P", "-m", module, *words],
        env={**environment, "PYTHONPATH": path} | known_by(os.getpid()),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=complaints,
        start_new_session=True,  # which Windows passes over, and has groups instead
        creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
    )


def read_now(pipe: IO[bytes]) -> bytes:
    """Return what lies in a pipe, nothing if that is nothing, without waiting for more."""
    if sys.platform == "win32":
        with suppress(OSError):  # its other end is closed
            there = _winapi.PeekNamedPipe(msvcrt.get_osfhandle(pipe.fileno()), 0)[0]
            return os.read(pipe.fileno(), there) if there else b""
        return b""
    os.set_blocking(pipe.fileno(), False)
    found = b""
    with suppress(BlockingIOError):  # nothing there yet
        while part := os.read(pipe.fileno(), 1 << 16):
            found += part
    return found


def nicer(pid: int, by: int) -> None:
    """Give a process a lower priority than this one, where the system lets us, which Windows does at its start."""
    if sys.platform != "win32":
        with suppress(OSError):  # it may have ended
            os.setpriority(os.PRIO_PROCESS, pid, min(os.getpriority(os.PRIO_PROCESS, 0) + by, 19))


def ended_by(code: int) -> str:
    """Say how a process ended that has left with this code, of which one below 0 is a signal."""
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def known_by(parent: int) -> dict[str, str]:
    """Return the variables by which a process knows whom to `follow`."""
    return {_PARENT: str(parent)}


def last_words(complaints: IO[bytes]) -> list[str]:
    """Return what a process has said on its standard error, line by line, without empty ones."""
    complaints.seek(0)
    return [line.strip() for line in complaints.read().decode(errors="replace").split("\n") if line.strip()]


def follow() -> None:
    """End this process, in a thread, with the one that started it, which may be killed while it says nothing."""

    def wait() -> None:
        _outlive(int(os.environ[_PARENT]))
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _outlive(parent: int) -> None:
    """Wait until the process that has started this one is gone."""
    if sys.platform == "win32":  # which gives an orphan no other parent
        synchronize, without_end = 0x00100000, 0xFFFFFFFF
        handle = ctypes.windll.kernel32.OpenProcess(synchronize, False, parent)
        if handle:
            ctypes.windll.kernel32.WaitForSingleObject(handle, without_end)
        return
    while os.getppid() == parent:
        time.sleep(1.0)
