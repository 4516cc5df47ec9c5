"""Does it work on a GPU, and how fast? Every check that needs one, in at most eight minutes.

    python benchmarks/gpu.py [--only golden resume ...] [--tiny] [--out table.md]

Each check is a process of its own with a budget of seconds, the most important first; one that fails, crashes or takes
too long does not stop the others. Printed is a line for each figure, with what is wrong; at the end the same as a table
for docs/log.md, with the card's name. Without a GPU, or with --tiny, the sizes are such that a CPU shows that the
checks themselves work; the figures then mean nothing. `timm` is a peer, the rest needs this package alone.

MFU: operations of matrix products and attention in the plain step (peers/plain_step.py), by torch's counter, over the
time of a step, relative to one large product in the same process. Memory is that of tensors, as the caching allocator
counts it, beside what `dinokit plan` foresees less the process itself.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch
from on_gpu import frozen, golden, runs, steps
from on_gpu.place import Place, Row

BUDGETS: dict[str, tuple[Callable[[Place], Iterator[Row]], int]] = {  # check, seconds: 480 in all
    "networks": (golden.networks, 20),
    "losses": (golden.losses, 15),
    "step": (golden.step, 20),
    "resume": (runs.resume, 45),
    "large": (partial(steps.speed, model="l"), 100),
    "batches": (runs.batches, 25),
    "small": (partial(steps.speed, model="s"), 55),
    "sharded": (steps.sharded, 25),
    "gram": (steps.anchored, 35),
    "embed": (frozen.embedding, 40),
    "health": (frozen.health, 25),
    "kmeans": (frozen.kmeans, 20),
    "base": (partial(steps.speed, model="b"), 55),
}


def main() -> None:
    """Run the checks and print what they find."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(BUDGETS), default=list(BUDGETS))
    parser.add_argument("--tiny", action="store_true", help="sizes for a CPU; by itself where there is no GPU")
    parser.add_argument("--out", type=Path, help="file that receives the table")
    parser.add_argument("--check", choices=list(BUDGETS), help=argparse.SUPPRESS)  # a check's own process
    given = parser.parse_args()
    place = here(tiny=given.tiny)
    if given.check:
        for row in BUDGETS[given.check][0](place):
            print(json.dumps([row.name, row.figure, row.fault]), flush=True)
        return
    title = f"{place.card}, torch {torch.__version__}" + (", tiny sizes: figures mean nothing" if place.tiny else "")
    print(title, flush=True)
    lines = [f"**{title}**", "", "| check | figure | |", "|---|---|---|"]
    for name in given.only:
        words = [sys.executable, __file__, "--check", name, *(["--tiny"] if place.tiny else [])]
        for row in measured(name, words, budget=BUDGETS[name][1]):
            said = row.fault or "ok"
            print(f"{row.name} | {row.figure} | {said}", flush=True)
            lines.append(f"| {row.name} | {row.figure} | {said} |")
    print("", *lines, sep="\n")
    if given.out:
        given.out.write_text("\n".join(lines) + "\n")


def here(*, tiny: bool = False) -> Place:
    """Return the GPU of this machine, or the CPU and tiny sizes."""
    there = torch.cuda.is_available()
    return Place(torch.device("cuda", 0) if there else torch.device("cpu"), tiny or not there)


def measured(name: str, words: list[str], *, budget: float) -> Iterator[Row]:
    """Run a check in a process of its own, as long as its budget lasts."""
    began = time.monotonic()
    complaints: list[str] = []
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        timer = threading.Timer(budget, _end, (process.pid,))
        timer.start()
        assert process.stdout is not None
        assert process.stderr is not None
        reader = threading.Thread(target=complaints.extend, args=(process.stderr,))
        reader.start()
        try:
            for line in process.stdout:
                if line.startswith("["):  # others are those of libraries
                    yield Row(*json.loads(line))
            code = process.wait()
            reader.join()
        finally:
            timer.cancel()
            _end(process.pid)
    passed = time.monotonic() - began
    if code and passed >= budget:
        yield Row(name, f"stopped after {budget:g} s", "too slow")
    elif code:
        yield Row(name, f"exit code {code} after {passed:.0f} s", "".join(complaints[-1:]).strip() or "no word")


def _end(session: int) -> None:
    """End a process and those that it has started: they hold its output, whose end would never come."""
    with suppress(ProcessLookupError):
        os.killpg(session, signal.SIGKILL)


if __name__ == "__main__":
    main()
