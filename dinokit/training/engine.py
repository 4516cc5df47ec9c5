"""The run: opens or continues a folder, trains step by step, saves, and leaves cleanly when it is asked to.

Every step is a function of (seed, step) and the saved state, so the same command continues an interrupted run bit by
bit.
"""

import fcntl
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import FrameType

import torch

from dinokit import config as configuration
from dinokit.checkpoints.load import header
from dinokit.checkpoints.store import Clock, RunFolder
from dinokit.core import device as devices
from dinokit.core import dist
from dinokit.core.errors import RunError, UserError, reason
from dinokit.core.files import read_jsonl, write_json, write_jsonl
from dinokit.core.log import info, warn
from dinokit.data.loader import BadRecord, Batch, Loader
from dinokit.data.source import Source, open_source, same_source
from dinokit.training import ranks
from dinokit.training.bad_images import BadImages, forget_later
from dinokit.training.config import Experiment, TrainConfig
from dinokit.training.progress import Journal
from dinokit.training.step import Report, Trainer

MAX_BAD_STEPS = 20  # consecutive steps with a loss that is not finite, after which the run gives up


class Interrupted(Exception):
    """The run was asked to stop and has saved; the same command continues it."""


def pretrain(
    config: TrainConfig, out: Path, *, on_checkpoint: Callable[[int, Path], None] = lambda step, path: None
) -> None:
    """Train until the experiment's last step, continuing what is in `out`.

    Args:
        on_checkpoint: called with step and folder after every checkpoint, also with the one that a run continues from.

    Raises:
        UserError: if the data, the folder or the settings do not fit.
        Interrupted: after SIGINT, SIGTERM or SIGHUP, with a checkpoint of the last whole step written.
        RunError: if it cannot go on; the message says what was saved.
    """
    run = RunFolder(out)
    experiment, runtime = config.experiment, config.runtime
    world = ranks.count(experiment, runtime)
    if dist.is_main():
        _check_experiment(run, config)
    source = open_source(experiment.data.source, channels=experiment.backbone.channels, split=None)
    device = devices.choose(runtime.device)
    trainer = Trainer(experiment, device)
    with _only_run(run) if dist.is_main() else nullcontext():
        if dist.is_main():
            run.create(configuration.to_yaml(config))
            for line in run.set_damaged_aside():
                warn(line)
        try:
            with ranks.joined(world, ["pretrain", str(run.config), "--out", str(run.path)]):
                clock = _restore(run, trainer)
                _say_what_runs(config, source, trainer, clock)
                session = _Session(
                    config=config, run=run, trainer=trainer, source=source, clock=clock, on_checkpoint=on_checkpoint
                )
                session.train()
        except ranks.RankLost as error:
            raise RunError(f"{error}; {_newest(run)}; the same command continues") from error
        except OSError as error:
            raise RunError(
                f"cannot write to {out}: {reason(error)}; {_newest(run)}; the same command continues"
            ) from error


@dataclass
class _Session:
    """One start of a run, from its newest checkpoint to its end or an interruption."""

    config: TrainConfig
    run: RunFolder
    trainer: Trainer
    source: Source
    clock: Clock
    on_checkpoint: Callable[[int, Path], None]
    bad_in_a_row: int = 0

    def train(self) -> None:
        steps, runtime = self.config.experiment.steps, self.config.runtime
        start = self.clock.step
        if dist.is_main():
            write_json(self.run.environment, environment(self.trainer.device) | {"images": len(self.source)})
            if not self.run.steps():
                self._save()
            self.on_checkpoint(start, self.run.checkpoint(start))
        dist.barrier()
        if start >= steps:
            info(f"{self.run.path}: all {steps} steps are done")
            return
        journal = Journal(
            self.run, steps=steps, every=runtime.log_every, tensorboard=runtime.tensorboard, start=start + 1
        )
        batches = self._loader().batches(start, steps)
        bad_images = BadImages(
            self.run.bad_images, images=len(self.source), max_ratio=runtime.data.max_bad_ratio
        )  # read before the first step, which needs all ranks: nobody writes yet
        batch_size = self.config.experiment.data.batch_size
        try:
            with _stop_requests() as wish, journal.shown(start=start):
                while self.clock.step < steps:
                    bad = self._step(batches, journal)
                    stop, any_bad = dist.any_rank(wish.requested, bool(bad))
                    if any_bad:
                        bad_images.add(dist.gather_lists(bad), step=self.clock.step)
                    too_many = bad_images.too_many(self.clock.step * batch_size)
                    due = self.clock.step % runtime.checkpoint_every == 0 or self.clock.step == steps
                    if (due or stop or too_many) and not self.bad_in_a_row:  # a diverging run keeps its good states
                        journal.flush(self.clock.step, clock=self.clock.seconds)
                        self._save()
                    if too_many:
                        raise RunError(
                            f"{too_many}; {_newest(self.run)}; mend or remove them (dinokit data check lists all), or "
                            "allow more with --data.max_bad_ratio and the same command continues"
                        )
                    if stop and self.clock.step < steps:
                        raise Interrupted(f"stopped at step {self.clock.step} of {steps}; {_newest(self.run)}")
                    if due and not self.bad_in_a_row and dist.is_main():
                        self.on_checkpoint(self.clock.step, self.run.checkpoint(self.clock.step))
                    if due:
                        dist.barrier()  # the one place where ranks may wait for long
        finally:
            journal.close()
        if self.bad_in_a_row:
            raise RunError(
                f"the last {self.bad_in_a_row} of {steps} steps had no finite loss or gradient; {_newest(self.run)}; "
                "lower optim.lr in a new run"
            )

    def _step(self, batches: Iterator[Batch], journal: Journal) -> list[BadRecord]:
        """Take one step and return the images that this rank could not read."""
        began = time.monotonic()
        micro_batches = [next(batches) for _ in range(self.config.experiment.data.accumulate)]
        waited = time.monotonic() - began
        report = self.trainer.step([batch.views for batch in micro_batches], step=self.clock.step)
        seconds = time.monotonic() - began
        self._count_bad_step(report)
        self.clock.step += 1
        self.clock.seconds += seconds
        images = self.config.experiment.data.batch_size
        journal.add(
            self.clock.step, report.values, images=images, seconds=seconds, waited=waited, clock=self.clock.seconds
        )
        return [record for batch in micro_batches for record in batch.bad]

    def _save(self) -> None:
        if not dist.is_main():  # all ranks hold the same state
            return
        self.run.save(
            self.clock.step,
            state=self.trainer.state(),
            clock=self.clock,
            model=self.trainer.backbone.teacher.state_dict(),
            about=header(self.config.experiment.backbone, self.config.experiment.data.pixels, step=self.clock.step),
            keep=self.config.runtime.keep,
        )

    def _loader(self) -> Loader:
        experiment = self.config.experiment
        return Loader(
            self.source,
            experiment.data.views,
            experiment.data.masks if "masks" in self.trainer.needs else None,
            experiment.data.pixels,
            patch_size=experiment.backbone.patch_size,
            batch=experiment.data.batch_size // experiment.data.accumulate // dist.world_size(),
            accumulate=experiment.data.accumulate,
            rank=dist.rank(),
            world=dist.world_size(),
            seed=experiment.seed,
            min_side=experiment.data.min_side,
            workers=_workers(self.config.runtime.workers, self.source),
            pin_memory=self.trainer.device.type == "cuda",
        )

    def _count_bad_step(self, report: Report) -> None:
        if report.finite:
            self.bad_in_a_row = 0
            return
        self.bad_in_a_row += 1
        self.clock.bad_steps += 1
        warn(f"step {self.clock.step + 1} is skipped: {report.fault}")
        if self.bad_in_a_row >= MAX_BAD_STEPS:
            raise RunError(
                f"{MAX_BAD_STEPS} steps in a row had no finite loss or gradient; {_newest(self.run)}; "
                "lower optim.lr in a new run"
            )


@contextmanager
def _only_run(run: RunFolder) -> Iterator[None]:
    """Keep a second process out of the folder; the lock goes with the process, however it ends."""
    try:
        run.path.mkdir(parents=True, exist_ok=True)
        lock = (run.path / ".lock").open("w")
    except OSError as error:
        raise UserError(f"cannot write to {run.path}: {reason(error)}; choose another --out") from error
    try:
        # lockf, not flock: a loader process that outlives a killed run must not inherit the lock
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except (BlockingIOError, PermissionError) as error:
        raise UserError(f"another process trains in {run.path}; wait for it or choose another --out") from error
    finally:
        lock.close()


def _newest(run: RunFolder) -> str:
    steps = run.steps(with_state=True)
    return f"saved is step {steps[-1]}" if steps else "nothing is saved yet"


def environment(device: torch.device) -> dict[str, str | int]:
    """Return what a reader needs to know to repeat the run: machine, versions, command."""
    packages = {name: version(name) for name in ("torch", "numpy", "pillow")}
    return {
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "device": str(device),
        "processor": _processor(),
        "cores": devices.cores(),
        "ranks": dist.world_size(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "python": platform.python_version(),
        **packages,
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _check_experiment(run: RunFolder, config: TrainConfig) -> None:
    """Refuse a folder that holds something else than this experiment."""
    if not run.path.exists():
        return
    if not run.path.is_dir():
        raise UserError(f"{run.path} is a file; --out takes a folder")
    if not run.config.exists():
        if any(not path.name.startswith(".") for path in run.path.iterdir()):
            raise UserError(f"{run.path} is not empty and holds no run (no config.yaml); choose another --out")
        return
    old = configuration.read_yaml(run.config)
    if not isinstance(old, dict) or "experiment" not in old:
        raise UserError(f"{run.config} is damaged: it has no experiment; restore it or choose another --out")
    changed = configuration.differences(old["experiment"], config.experiment)
    before, now = changed.get("data.source", ("", ""))
    if isinstance(before, str) and same_source(before, now):
        changed.pop("data.source", None)
    if changed:
        listed = ", ".join(f"{key} {was} -> {now}" for key, (was, now) in list(changed.items())[:5])
        more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
        raise UserError(
            f"{run.path} holds another experiment: {listed}{more}; "
            "give these their old values back or choose another --out"
        )


def _restore(run: RunFolder, trainer: Trainer) -> Clock:
    """Load the newest checkpoint and drop what the log says of later steps; a fresh run stays as it was built."""
    steps = run.steps(with_state=True)
    state, clock = run.load(steps[-1]) if steps else ({}, Clock())
    # before rank 0 writes the first checkpoint, all have looked for one, and have found the same
    found = dist.gather_lists([(clock.step, configuration.to_yaml(trainer.experiment))])
    if len(set(found)) > 1:
        raise RunError(
            f"all ranks must see one run, they found steps {sorted({step for step, _ in found})}; "
            "give all the same --out, on a disk that they share, and the same settings"
        )
    if not steps:
        return clock
    trainer.load_state({name: value.to(trainer.device) for name, value in state.items()})
    if dist.is_main():
        run.publish(steps[-1])  # a kill may have come between the checkpoint and its publication
        write_jsonl(run.metrics, (line for line in read_jsonl(run.metrics) if line.get("step", 0) <= steps[-1]))
        forget_later(run.bad_images, steps[-1])
    info(f"continuing {run.path} from step {steps[-1]}")
    return clock


def _say_what_runs(config: TrainConfig, source: Source, trainer: Trainer, clock: Clock) -> None:
    experiment = config.experiment
    weights = sum(parameter.numel() for parameter in trainer.backbone.student.parameters())
    _warn_of_other_lengths(experiment)
    bf16 = devices.uses_bf16(trainer.device, experiment.precision)
    info(
        f"{experiment.recipe}: {weights / 1e6:.2f} M weights · {len(source):,} images of {source.name} · "
        f"batch {experiment.data.batch_size} · steps {clock.step} to {experiment.steps} · "
        f"{trainer.device} {'bf16' if bf16 else 'fp32'}{ranks.described()}"
    )


def _warn_of_other_lengths(experiment: Experiment) -> None:
    """Say which schedules were written for another number of steps: nothing is stretched behind the reader's back."""
    schedules = {
        "optim.lr": experiment.optim.lr,
        "optim.weight_decay": experiment.optim.weight_decay,
        "momentum": experiment.momentum,
    }
    for name, schedule in schedules.items():
        if schedule.shape != "constant" and schedule.length != experiment.steps:
            decay = max(schedule.decay + experiment.steps - schedule.length, 0)
            warn(
                f"{name} is for {schedule.length} steps, the run has {experiment.steps}; "
                f"to match: --{name}.decay {decay}"
            )


def _workers(wanted: int | None, source: Source) -> int:
    """Leave a rank one of its cores; more than 8 rarely pay, and none do where nothing has to be decoded."""
    if wanted is not None:
        return wanted
    return 0 if source.decoded else min(max(devices.cores() // dist.local_world_size(), 1) - 1, 8)


@dataclass
class _Stop:
    requested: bool = False


@contextmanager
def _stop_requests() -> Iterator[_Stop]:
    """Turn the first SIGINT, SIGTERM or SIGHUP into a wish to stop after this step.

    A second SIGINT or SIGTERM acts at once; a second SIGHUP does nothing, as a terminal that closes may send several.
    """
    stop = _Stop()
    if threading.current_thread() is not threading.main_thread():  # Python allows handlers in the main thread alone
        yield stop
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    if previous[signal.SIGHUP] == signal.SIG_IGN:  # nohup
        del previous[signal.SIGHUP]

    def ask(_number: int, _frame: FrameType | None) -> None:
        if stop.requested:
            return
        stop.requested = True
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, previous[each])
        if dist.is_main():
            # os.write: a handler may interrupt the console in the middle of a line, and stderr may be gone
            with suppress(OSError):
                os.write(2, b"stopping after this step; once more to stop at once without saving\n")

    for number in previous:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
