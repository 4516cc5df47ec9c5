"""Several processes that share a step: one per GPU, or a few on the cores of a CPU.

A rank is the same command with torchrun's environment variables. Under torchrun they are there; otherwise this process
becomes rank 0 and starts the others itself. Rank 0 alone writes files and talks. A job of SLURM has one task per GPU,
is saved before its time is over, then queued again.
"""

import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from json import dumps
from pathlib import Path
from typing import IO, Any

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from dinokit.config import NO_SETTINGS
from dinokit.core import child, dist, slurm
from dinokit.core import device as devices
from dinokit.core.files import write_text
from dinokit.core.messages import RunError, UserError, console, info, is_main
from dinokit.core.spare import Spare, spares
from dinokit.training.config import Experiment, Runtime, TrainConfig

PORT = "DINOKIT_PORT"  # of rank 0's store, in the environment of the ranks that it starts
GRACE = 120  # seconds between SLURM's signal and the end of the job's time: for the step and its checkpoint
LAST_WORDS = 10.0  # seconds for other ranks to end by themselves, all together
LIBUV = sys.platform != "win32"  # whose wheels of torch are built without it
VICTIM = "another process of the run ended"  # said by a rank that fell with another

_spares: list[Spare] = []  # see `prepared`


class RankLost(Exception):
    """A process of the run ended, and the others cannot go on without it."""


def count(experiment: Experiment, runtime: Runtime) -> int:
    """Return the number of ranks of a run.

    Raises:
        UserError: if they do not know each other, or cannot share a micro-batch in equal parts that suit every
            objective.
    """
    wanted = started()
    if wanted is None:
        kind = devices.choose(runtime.device).type
        room = {"cuda": torch.cuda.device_count(), "mps": 1}.get(kind)  # a GPU is not shared
        if runtime.processes is None:
            return max((n for n in range(2, (room or 1) + 1) if not misfit(experiment, runtime, n)), default=1)
        wanted = min(runtime.processes, room or runtime.processes)
    cannot = misfit(experiment, runtime, wanted)
    if cannot:
        raise UserError(f"{cannot}; change data.batch_size, data.accumulate or runtime.processes")
    return wanted


def started() -> int | None:
    """Return the number of ranks with which this process was started; None if it is alone.

    Raises:
        UserError: if they do not know each other.
    """
    if "RANK" not in os.environ:
        return None
    expected = ["WORLD_SIZE", *([] if PORT in os.environ else ["MASTER_ADDR", "MASTER_PORT"])]
    missing = [name for name in expected if name not in os.environ]
    if missing:
        raise UserError(
            f"RANK is set, but {' and '.join(missing)} not: expected all or none; start ranks by torchrun or srun, "
            "or unset RANK"
        )
    return int(os.environ["WORLD_SIZE"])


def misfit(experiment: Experiment, runtime: Runtime, ranks: int) -> str:
    """Say why so many ranks cannot share a micro-batch of any stage; nothing if they can."""
    distil = experiment.distil if runtime.groups and ranks > 1 else None
    teams = 1 if distil is None else len(distil.students)
    if ranks % teams:
        fitting = " or ".join(str(each * teams) for each in (ranks // teams, ranks // teams + 1) if each)
        return f"runtime.groups divides the processes among {teams} students, which {ranks} cannot be; take {fitting}"
    for stage in experiment.all_stages:
        data = stage.experiment.data
        images = data.batch_size // data.accumulate
        where = f"stage {stage.name}: " if stage.begin is not None else ""
        if images % ranks:
            return f"{where}{ranks} processes cannot share the {images} images of a micro-batch equally"
        try:
            for config in stage.experiment.objectives.values():
                config.check_batch(images, ranks=ranks // teams)
        except UserError as error:
            return f"{where}{error}"
    return ""


def described(runtime: Runtime) -> str:
    """Say how many processes share the work, if several do, and whether that is another number than was asked for."""
    world = dist.world_size()
    asked = runtime.processes if "RANK" in os.environ and PORT not in os.environ else None
    instead = f" (as started, not runtime.processes {asked})" if asked not in (None, world) else ""
    return f" · {world} processes{instead}" if world > 1 or instead else ""


@contextmanager
def prepared(world: int, device: str) -> Iterator[None]:
    """Keep processes that can be the other ranks of a CPU at once, if `joined` starts them while the body runs.

    They are copies of this one, which has imported everything, and are made before it does anything else, see spare.py.
    """
    if world > 1 and "RANK" not in os.environ and devices.choose(device).type == "cpu":
        _spares.extend(spares([_complaints() for _ in range(1, world)]))
    try:
        yield
    finally:
        while _spares:
            _spares.pop().dismiss()


@contextmanager
def joined(world: int, command: Sequence[str]) -> Iterator[None]:
    """Be one of `world` ranks while the body runs; start the others unless this one was started with them.

    Args:
        command: words after `dinokit` that make another process do the same.

    Raises:
        RankLost: if another rank ended and the body failed for it.
        UserError: if what ended it was a mistake of the user.
    """
    if world == 1:
        yield
        return
    threads, others = torch.get_num_threads(), list[_Other]()
    try:
        if PORT in os.environ:  # started below
            rank = int(os.environ["RANK"])
            child.follow()
            store = TCPStore("127.0.0.1", int(os.environ[PORT]), is_master=False, use_libuv=LIBUV)
            store.set(f"ready {rank}", "")
            dist.join(store=store, rank=rank, world_size=world)
        elif "RANK" in os.environ:  # torchrun
            dist.join()
        else:
            store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, use_libuv=LIBUV)
            own = threads if "OMP_NUM_THREADS" in os.environ else max(devices.cores() // world, 1)
            for rank in range(1, world):
                others.append(_start(command, rank=rank, world=world, port=store.port, threads=own))
            torch.set_num_threads(own)
            while not store.check([f"ready {other.rank}" for other in others]):
                ended = [other for other in others if other.process.poll() is not None]
                if ended:  # it would be waited for in vain
                    _raise_culprit(ended, None)
                time.sleep(0.01)
            dist.join(store=store, rank=0, world_size=world)
        yield
    except (UserError, RunError):  # what this rank found out by itself
        raise
    except RuntimeError as error:
        dist.leave()  # so that the others fall too, and can be asked
        _raise_culprit(others, error)
        raise
    finally:
        dist.leave()
        _end(others)
        torch.set_num_threads(threads)


def words(*first: str, settings: Mapping[str, Any] = NO_SETTINGS, **options: object) -> list[str]:
    """Return the words after `dinokit` that give a command again: its own options as texts, settings as JSON."""
    found = list(first)
    for name, value in options.items():
        dashed = name.replace("_", "-")
        if isinstance(value, bool):
            found.append(f"--{dashed}" if value else f"--no-{dashed}")
        elif value is not None:
            found += [f"--{dashed}", str(value)]
    for name, value in settings.items():
        found += [f"--{name}", dumps(value)]
    return found


@contextmanager
def sharing(command: Sequence[str], *, processes: int | None, device: str) -> Iterator[torch.device]:
    """Be one of the ranks that share work which goes on by itself after a stop; yield this rank's device.

    Args:
        command: see `joined`; rank and processes apart it says the whole work.
        processes: to start where nobody has started ranks; None: one per GPU of this machine.

    Raises:
        RunError: if another rank ended.
    """
    slurm.adopt()
    console.quiet = not is_main()  # known only now
    if processes is not None and processes < 1:
        raise UserError(f"--processes must be at least 1, got {processes}")
    kind = devices.choose(device).type
    room = {"cuda": torch.cuda.device_count(), "mps": 1}.get(kind)  # a GPU is not shared
    wanted = (room or 1) if processes is None else min(processes, room or processes)
    try:
        with joined(started() or wanted, command):
            yield devices.choose(device)
    except RankLost as error:
        raise RunError(f"{error}; what was computed stays, the same command goes on") from error


@dataclass(frozen=True)
class _Other:
    """A rank that this process has started."""

    rank: int
    process: "subprocess.Popen[bytes] | Spare"
    complaints: IO[bytes]  # its standard error


def _start(command: Sequence[str], *, rank: int, world: int, port: int, threads: int) -> _Other:
    identity = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, PORT: port}
    variables = {"OMP_NUM_THREADS": str(threads)} | os.environ | {key: str(value) for key, value in identity.items()}
    if _spares:
        spare = _spares.pop()
        spare.begin(command, variables, threads=threads)
        return _Other(rank, spare, spare.complaints)
    complaints = _complaints()
    process = child.start("dinokit", *command, environment=variables, output=subprocess.DEVNULL, complaints=complaints)
    return _Other(rank, process, complaints)


def _complaints() -> IO[bytes]:
    return tempfile.TemporaryFile()  # closed by `_end`


def _raise_culprit(others: Sequence[_Other], error: RuntimeError | None) -> None:
    """Find the rank that ended first and say what it said; return if none has ended but for this rank's own error."""
    deadline = time.monotonic() + LAST_WORDS
    for other in others:
        try:
            code = other.process.wait(max(deadline - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            continue
        said = next(reversed(child.last_words(other.complaints)), "")
        if code in (0, 130) or VICTIM in said:
            continue
        if code == 2:
            raise UserError(said.removeprefix("error: ")) from error
        raise RankLost(f"process {other.rank} of the run ended ({child.ended_by(code)}) {said}".rstrip()) from error
    if error is None or "onnection" in str(error):  # gloo: "Connection closed by peer", "Connection reset"
        raise RankLost(VICTIM) from error


def _end(others: Sequence[_Other]) -> None:
    """Wait a little for all, then kill."""
    deadline = time.monotonic() + LAST_WORDS
    for other in others:
        try:
            other.process.wait(max(deadline - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            other.process.kill()
            other.process.wait()
        other.complaints.close()


def write_job(
    file: Path, words: list[str], config: TrainConfig, settings: Mapping[str, Any], *, nodes: int, gpus_per_node: int
) -> None:
    """Write a script for sbatch, unless the job could not run.

    Args:
        words: of the command, after `dinokit`; with paths that hold on every node.
        config: of the run, with the settings.
        settings: that follow the words.
    """
    if min(nodes, gpus_per_node) < 1:
        raise UserError(f"nodes and gpus_per_node must be at least 1, got {nodes} and {gpus_per_node}")
    # said now, not when the job's turn has come
    cannot = misfit(config.experiment, config.runtime, nodes * gpus_per_node)
    if cannot:
        raise UserError(f"{cannot}; change data.batch_size, data.accumulate, --nodes or --gpus-per-node")
    if file.is_dir():
        raise UserError(f"{file} is a folder; --slurm takes a file such as {file / 'job.sh'}")
    for key, value in settings.items():
        words += [f"--{key}", dumps(value)]  # JSON is YAML
    command = shlex.join([sys.executable, "-m", "dinokit", *words])
    script = f"""#!/bin/bash
#SBATCH --job-name=dinokit
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node={gpus_per_node}
#SBATCH --gpus-per-node={gpus_per_node}
#SBATCH --signal=USR1@{GRACE}
#SBATCH --requeue
#SBATCH --open-mode=append
# add what the cluster wants: --account, --partition, --time, --cpus-per-task, --mem

srun --kill-on-bad-exit=1 {command}
code=$?
# 130: asked to stop, and saved; the same job continues the run
if [ "$code" -eq 130 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""
    write_text(file, script)
    info(f"{nodes} x {gpus_per_node} ranks: look at {file}, then sbatch {file}")
