"""Another process of this very dinokit, started beside this one: it ends when this one does, however that happens."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

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
        start_new_session=True,
    )


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
        while os.getppid() == int(os.environ[_PARENT]):
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
