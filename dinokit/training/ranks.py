"""Several processes that share a step: one per GPU, or a few on the cores of a CPU.

A rank is the same command with torchrun's environment variables. Under torchrun they are there; otherwise this process
becomes rank 0 and starts the others itself. Rank 0 alone writes files and talks.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import IO

import torch
import torch.distributed as group
from torch._C._distributed_c10d import TCPStore

from dinokit.core import device as devices
from dinokit.core import dist
from dinokit.core.errors import RunError, UserError
from dinokit.training.config import Experiment, Runtime

PORT = "DINOKIT_PORT"  # of rank 0's store, in the environment of the ranks that it starts
PATIENCE = timedelta(hours=6)  # of a rank that waits for another: rank 0 may measure a large data set in between
LAST_WORDS = 10.0  # seconds for a rank to end by itself


class RankLost(Exception):
    """A process of the run ended, and the others cannot go on without it."""


def count(experiment: Experiment, runtime: Runtime) -> int:
    """Return the number of ranks of a run.

    Raises:
        UserError: if they cannot share the batch in equal parts.
    """
    images = experiment.data.batch_size // experiment.data.accumulate
    if "WORLD_SIZE" in os.environ:
        wanted = int(os.environ["WORLD_SIZE"])
    else:
        kind = devices.choose(runtime.device).type
        room = {"cuda": torch.cuda.device_count(), "mps": 1}.get(kind)  # a GPU is not shared
        fitting = (n for n in range(1, (room or 1) + 1) if images % n == 0)
        wanted = max(fitting, default=1) if runtime.processes is None else min(runtime.processes, room or sys.maxsize)
    if images % wanted:
        raise UserError(
            f"{wanted} processes cannot share the {images} images of a micro-batch equally; change data.batch_size, "
            "data.accumulate or runtime.processes"
        )
    return wanted


def described() -> str:
    """Say how many processes share the work, if several do."""
    return f" · {dist.world_size()} processes" if dist.world_size() > 1 else ""


@contextmanager
def joined(world: int, command: Sequence[str]) -> Iterator[None]:
    """Be one of `world` ranks while the body runs; start the others unless this one was started with them.

    Args:
        command: words after `dinokit` that make another process do the same.

    Raises:
        RankLost: if another rank ended and the body failed for it.
    """
    if world == 1:
        yield
        return
    threads, others = torch.get_num_threads(), list[_Other]()
    try:
        if PORT in os.environ:  # started below
            rank = int(os.environ["RANK"])
            store = TCPStore("127.0.0.1", int(os.environ[PORT]), is_master=False)
            store.set(f"ready {rank}", "")
            group.init_process_group(store=store, rank=rank, world_size=world, timeout=PATIENCE)
        elif "RANK" in os.environ:  # torchrun
            group.init_process_group(timeout=PATIENCE)
        else:
            store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
            own = max(devices.cores() // world, 1)
            others = [_start(command, rank=rank, world=world, port=store.port, threads=own) for rank in range(1, world)]
            torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", own)))
            _wait(store, others)
            group.init_process_group(store=store, rank=0, world_size=world, timeout=PATIENCE)
        yield
    except RunError:  # what this rank found out by itself
        raise
    except RuntimeError as error:
        lost = next((words for other in others if (words := other.last_words())), "")
        if lost or "onnection" in str(error):
            raise RankLost(lost or "another process of the run ended") from error
        raise
    finally:
        if dist.is_active():
            group.destroy_process_group()
        for other in others:
            other.end()
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class _Other:
    """A rank that this process has started."""

    rank: int
    process: "subprocess.Popen[bytes]"
    complaints: IO[bytes]  # its standard error

    def last_words(self) -> str:
        """Say how it ended, or nothing if it still runs or ended well."""
        try:
            code = self.process.wait(LAST_WORDS)
        except subprocess.TimeoutExpired:
            return ""
        self.complaints.seek(0)
        lines = self.complaints.read().decode(errors="replace").split("\n")
        said = next((line.strip() for line in reversed(lines) if line.strip()), "")
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return f"process {self.rank} of the run ended ({how}) {said}".rstrip() if code else ""

    def end(self) -> None:
        """Wait a little, then kill it."""
        try:
            self.process.wait(LAST_WORDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.complaints.close()


def _start(command: Sequence[str], *, rank: int, world: int, port: int, threads: int) -> _Other:
    identity = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, PORT: port}
    environment = {"OMP_NUM_THREADS": str(threads)} | os.environ | {key: str(value) for key, value in identity.items()}
    complaints = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `end`)
    process = subprocess.Popen(
        [sys.executable, "-m", "dinokit", *command],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=complaints,
        start_new_session=True,  # Ctrl-C is for rank 0, which tells the others
    )
    return _Other(rank, process, complaints)


def _wait(store: TCPStore, others: Sequence[_Other]) -> None:
    """Wait until all are there; one that ends before would be waited for in vain."""
    while not store.check([f"ready {other.rank}" for other in others]):
        for other in others:
            if other.process.poll() is not None:
                raise RankLost(other.last_words() or f"process {other.rank} of the run ended at once")
        time.sleep(0.05)
