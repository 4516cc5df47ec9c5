"""Functions that run on several processes."""

import os
import socket
import sys
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.reduction import DupFd
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import torch
import torch.multiprocessing as processes

from dinokit.run import engine
from dinokit.training.config import TrainConfig

Train = Callable[[TrainConfig, Path], None]

# One process without threads and devices imports what takes seconds, and the ranks of all tests are forked off it.
# Dynamo is what the first optimiser and the first assert_close import; a rank finds its function in a file of tests.
ALL_NEED = ["dinokit.run.engine", "torch._dynamo", "tests.disk", "tests.run.test_engine"]
get_context("forkserver").set_forkserver_preload(ALL_NEED)


def on_ranks(function: Callable[..., None], *args: object, count: int = 2) -> None:
    """Call `function(rank, *args)` on so many processes; what one raises is raised."""
    processes.start_processes(function, args=args, nprocs=count, start_method="forkserver")


def apart(code: str, *, closed: tuple[int, ...] = ()) -> tuple[int | None, str]:
    """Run code on a process without threads and without some standard files; return how it ended and what it said."""
    with TemporaryFile("w+") as said:
        process = get_context("forkserver").Process(target=_run, args=(code, DupFd(said.fileno()), closed))
        process.start()
        process.join()
        said.seek(0)
        return process.exitcode, said.read()


def _run(code: str, said: Any, closed: tuple[int, ...]) -> None:
    os.environ.pop("RANK", None)
    file = said.detach()
    for number in (1, 2):
        os.dup2(file, number)
    os.close(file)
    for number in closed:
        os.close(number)
        setattr(sys, ("stdin", "stdout")[number], None)  # as Python begins without them
    exec(code, {"__name__": "__apart__"})


def train_on_ranks(settings: TrainConfig, run: Path, *, count: int = 2, train: Train = engine.pretrain) -> None:
    """Train as ranks that torchrun has started, without the seconds that a command of its own takes to begin."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    on_ranks(_train, train, settings, run, count, port, count=count)


def _train(rank: int, train: Train, settings: TrainConfig, run: Path, count: int, port: int) -> None:
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    os.environ |= {name: str(value) for name, value in names.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    train(settings, run)
