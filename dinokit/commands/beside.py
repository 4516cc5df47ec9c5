"""Saved teachers are measured beside the training: by a process of low priority, one after the other.

It takes one checkpoint at a time - the untrained network first, then the newest - and ends. The training looks after
each step whether it has said something and goes on; it waits for it only when its own steps are done. What waits is
what the folder holds without a result in the log, so a start that goes on measures what another has left. The teachers
of all checkpoints stay, so that none is gone when its turn has come.
"""

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO, final

from dinokit.checkpoints.store import RunFolder
from dinokit.commands.measuring import Asked, Line, Task, headline, missing, words_of
from dinokit.core import child
from dinokit.core import device as devices
from dinokit.core.files import append_jsonl, read_jsonl
from dinokit.core.messages import info, warn
from dinokit.core.stopping import stop_requests
from dinokit.visuals.record import FAILED

NICE = 10  # what is added to the priority's number
PART = 4  # of this machine's cores the process takes one in so many
PAUSE = 0.1  # seconds between two looks when nothing else is left to do
RANK = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what a process beside is not


@dataclass
class _Under:
    """What is being measured."""

    step: int
    tasks: list[Task]  # those without a result
    process: "subprocess.Popen[bytes]"
    complaints: IO[bytes]
    said: bytes = b""  # the beginning of a line


@final
class Beside:
    """Starts the process, takes in what it has found, and never raises for it; one process alone may call.

    Args:
        asked: what is measured.
        device: where.
        due: whether the teacher of a step is measured.
    """

    def __init__(self, run: RunFolder, asked: Asked, *, device: str, due: Callable[[int], bool]) -> None:
        self.run, self.asked, self.device, self.due = run, asked, device, due
        self._under: _Under | None = None
        self._failed = set[tuple[int, Task]]()  # not tried again by this start
        self._hopeless = set[Task]()  # nor at other steps
        self._heard = set[str]()

    def start(self) -> None:
        """Begin with what waits, if nothing is under way."""
        while self._under is None:
            waiting = self._waiting()
            if not waiting:
                return
            step = 0 if 0 in waiting else max(waiting)
            try:
                self._under = self._started(step, waiting[step])
            except OSError as error:
                for task in waiting[step]:
                    self._note(task.line(step, **{FAILED: str(error)}), step, task)

    @property
    def pid(self) -> int | None:
        """The process that measures, if there is one."""
        return None if self._under is None else self._under.process.pid

    def look(self) -> None:
        """Take in what there is, without waiting, and begin with the next."""
        under = self._under
        if under is None:
            return
        ended = under.process.poll() is not None  # asked before it is heard, so that its last words are
        self._hear(under)
        if ended:
            self._end(under)
            self.start()

    def finish(self) -> bool:
        """Wait until all is measured; no if somebody asked to stop."""
        self.start()
        if self._under is None:
            return True
        steps = sorted(self._waiting())
        which = f"the teacher of step {steps[0]:,}" if len(steps) == 1 else f"the teachers of {len(steps)} steps"
        if steps:  # else it only has to end
            info(f"trained; still measuring {which} (Ctrl-C leaves that, and the same command goes on with it)")
        with stop_requests("leaving; the same command measures the rest") as wish:
            while self._under is not None and not wish.requested:
                time.sleep(PAUSE)
                self.look()
        return self._under is None

    def leave(self) -> None:
        """End what is under way; it is measured by the start that goes on."""
        if self._under is not None:
            self._under.process.kill()
            self._under.process.wait()
            self._close(self._under)

    def _waiting(self) -> dict[int, list[Task]]:
        lines = read_jsonl(self.run.metrics)
        found = {}
        for step in filter(self.due, self.run.steps()):
            tasks = [task for task in self.asked.tasks(step) if task not in self._hopeless]
            found[step] = [task for task in missing(lines, tasks, step) if (step, task) not in self._failed]
        return {step: tasks for step, tasks in found.items() if tasks}

    def _started(self, step: int, tasks: list[Task]) -> _Under:
        own = max(devices.cores() // PART, 1)
        environment = {name: value for name, value in os.environ.items() if name not in RANK}
        environment |= {"OMP_NUM_THREADS": str(own), "LOCAL_WORLD_SIZE": str(PART)}
        complaints = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `_close`)
        process = child.start(
            "dinokit.commands.measuring",
            *(str(self.run.path), str(step), self.device, words_of(tasks)),
            environment=environment,
            output=subprocess.PIPE,
            complaints=complaints,
        )
        child.nicer(process.pid, NICE)
        return _Under(step, tasks, process, complaints)

    def _hear(self, under: _Under) -> None:
        assert under.process.stdout is not None
        under.said += child.read_now(under.process.stdout)
        *lines, under.said = under.said.split(b"\n")
        for each in lines:
            line, hopeless = json.loads(each)
            task = next(task for task in under.tasks if line.items() >= task.line(under.step).items())
            under.tasks.remove(task)
            self._note(line, under.step, task, hopeless=hopeless, left=under.tasks)

    def _end(self, under: _Under) -> None:
        """Take leave of a process that has ended; what it was at when it was killed has failed."""
        code, complaints = under.process.returncode, child.last_words(under.complaints)
        self._close(under)
        for each in complaints:
            if each.startswith("warning: ") and each not in self._heard:
                self._heard.add(each)
                warn(each.removeprefix("warning: "))
        how = child.ended_by(code) if code < 0 or not complaints else complaints[-1]
        # one that ends by itself before its tasks would do so at every step
        for task in under.tasks[:1] if code < 0 else under.tasks:
            line = task.line(under.step, **{FAILED: f"the process that measures: {how}"})
            self._note(line, under.step, task, hopeless=code >= 0)

    def _close(self, under: _Under) -> None:
        assert under.process.stdout is not None
        under.process.stdout.close()
        under.complaints.close()
        self._under = None

    def _note(self, line: Line, step: int, task: Task, *, hopeless: bool = False, left: Sequence[Task] = ()) -> None:
        """Write a line into the log, once, and say it."""
        if task in self._hopeless:  # another model has shown it
            return
        before = read_jsonl(self.run.metrics)
        if line not in before:
            append_jsonl(self.run.metrics, line)
        if FAILED not in line:
            if not any(_alike(each, task) for each in left):
                past = [each for each in [*before, line] if each.get("step", 0) <= step]
                info(f"step {step} · {headline(past, task)}")
            return
        self._failed.add((step, task))
        if hopeless:
            self._hopeless |= {each for at in (0, 1) for each in self.asked.tasks(at) if _alike(each, task)}
        where = "" if hopeless else f" of step {step:,}"
        warn(f"{task.evaluation}{where} is not measured: {line[FAILED]}")


def _alike(one: Task, other: Task) -> bool:
    return (one.evaluation, one.source) == (other.evaluation, other.source)
