"""Functions that run on several processes."""

from collections.abc import Callable
from multiprocessing import get_context

import torch.multiprocessing as processes

# One process without threads and devices imports what takes seconds, and the ranks of all tests are forked off it.
# Dynamo is what the first optimiser and the first assert_close import.
get_context("forkserver").set_forkserver_preload(["dinokit.run.engine", "torch._dynamo"])


def on_ranks(function: Callable[..., None], *args: object, count: int = 2) -> None:
    """Call `function(rank, *args)` on so many processes; what one raises is raised."""
    processes.start_processes(function, args=args, nprocs=count, start_method="forkserver")
