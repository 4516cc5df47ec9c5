"""The run: opens or continues a folder, trains step by step, saves, and leaves cleanly when it is asked to.

Every step is a function of (seed, step) and the saved state, so the same command continues an interrupted run bit by
bit.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

import torch

from dinokit import config as configuration
from dinokit.checkpoints.load import header
from dinokit.checkpoints.store import Clock, RunFolder
from dinokit.core import device as devices
from dinokit.core import dist
from dinokit.core.errors import RunError, UserError, reason
from dinokit.core.log import info, warn
from dinokit.core.ownership import only_owner
from dinokit.run import ranks
from dinokit.run.bad_images import BadImages
from dinokit.run.feed import Supply, feed
from dinokit.run.guard import Diverged, Guard, Place, last_is_bad
from dinokit.run.handover import next_stage, opened
from dinokit.run.monitor import Monitor
from dinokit.run.opening import record_start, say_timeline, say_what_runs
from dinokit.run.progress import Journal
from dinokit.run.resume import check_experiment, newest
from dinokit.run.stop import Stop, stop_requests
from dinokit.run.trackers import Trackers
from dinokit.sources.source import Source, open_source
from dinokit.training import shard
from dinokit.training.config import Leg, TrainConfig
from dinokit.training.step import Trainer
from dinokit.views.loader import BadRecord, Batch

_Upcoming = tuple[Sequence[Batch], float] | UserError | RunError  # batches and seconds waited, or why there are none


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
        Interrupted: after SIGINT, SIGTERM, SIGHUP or SIGUSR1, with a checkpoint of the last whole step written.
        RunError: if it cannot go on; the message says what was saved.
    """
    run = RunFolder(out)
    experiment, runtime = config.experiment, config.runtime
    world = ranks.count(experiment, runtime)
    if dist.is_main():
        check_experiment(run, config)
    source = open_source(experiment.data.source, channels=experiment.backbone.channels, labels=experiment.data.labels)
    with only_owner(run.path, doing="trains in") if dist.is_main() else nullcontext():
        if dist.is_main():
            run.create(configuration.to_yaml(config))
            for line in run.set_damaged_aside():
                warn(line)
        try:
            with ranks.joined(world, ["pretrain", str(run.config), "--out", str(run.path)]):
                guard = Guard(run, runtime.rollback, seed=experiment.seed)
                _Session(config, run, devices.choose(runtime.device), source, on_checkpoint, guard).train()
        except ranks.RankLost as error:
            raise RunError(f"{error}; {newest(run)}; the same command continues") from error
        except OSError as error:
            raise RunError(f"{_cause(error, out)}; {newest(run)}; the same command continues") from error


def _cause(error: OSError, out: Path) -> str:
    """Say which file an error is about; one without a name comes from writing, as a full disk does."""
    name = error.filename
    if name is None or Path(os.fsdecode(name)).absolute().is_relative_to(out.absolute()):
        return f"cannot write to {out}: {reason(error)}"
    return f"{os.fsdecode(name)}: {reason(error)}"


@dataclass
class _Session:
    """One start of a run, from its newest checkpoint to its end or an interruption."""

    config: TrainConfig
    run: RunFolder
    device: torch.device
    source: Source
    on_checkpoint: Callable[[int, Path], None]
    guard: Guard
    leg: Leg = field(init=False)
    trainer: Trainer = field(init=False)
    clock: Clock = field(init=False)
    supply: Supply = field(init=False)

    @property
    def stage(self) -> TrainConfig:
        """The settings of the stage that is trained."""
        return replace(self.config, experiment=self.leg.experiment)

    def train(self) -> None:
        """Train stage after stage to the end; after too many bad steps go back and try with a lower rate."""
        say_timeline(self.config.experiment)
        self.leg, self.trainer, self.clock = opened(self.run, self.config, self.device, self.source)
        say_what_runs(self.stage, self.source, self.trainer, self.clock, stage=self.leg.name, until=self.leg.last)
        if dist.is_main():
            record_start(self.run, self.device, self.source)
        with stop_requests() as wish:
            while True:
                try:
                    self._train(wish)
                    following = next_stage(self.run, self.config, self.leg, self.trainer, self.source)
                except Diverged as divergence:
                    self._go_back(divergence)
                    continue
                if following is None:
                    return
                self.leg, self.trainer = following
                say_what_runs(
                    self.stage, self.source, self.trainer, self.clock, stage=self.leg.name, until=self.leg.last
                )

    def _train(self, wish: Stop) -> None:
        last, runtime = self.leg.last, self.config.runtime
        steps = self.config.experiment.legs()[-1].last  # of the whole run
        start = self.clock.step
        (fresh,) = dist.any_rank(dist.is_main() and not self.run.steps())
        if fresh:
            self._save()
        if dist.is_main():
            self.on_checkpoint(start, self.run.checkpoint(start))
        dist.barrier()
        if start >= steps:
            info(f"{self.run.path}: all {steps} steps are done")
            return
        trackers = Trackers(self.run, self.config, start=start + 1) if dist.is_main() else None
        journal = Journal(self.run, steps=steps, every=runtime.log_every, trackers=trackers)
        monitor = Monitor(self.stage, self.trainer, self.source, history=journal.lines())
        journal.judge = monitor.judge
        loader = feed(self.stage, self.source, self.trainer)
        self.supply = Supply(loader)
        batches = loader.batches(start + self.clock.ahead, last + self.clock.ahead)
        bad_images = BadImages(
            self.run.bad_images, images=len(self.source), max_ratio=runtime.data.max_bad_ratio
        )  # read before the first step, which needs all ranks: nobody writes yet
        batch_size = self.leg.experiment.data.batch_size
        candidates, due = self.config.experiment.candidates(), False
        try:
            with journal.shown(start=start):
                upcoming = self._fetch(batches)
                (gone,) = dist.any_rank(isinstance(upcoming, UserError | RunError))
                if gone:
                    self._leave_without_images(upcoming, journal)
                while self.clock.step < last:
                    assert not isinstance(upcoming, UserError | RunError)
                    bad = self._step(upcoming, journal, monitor)
                    # before the message that all ranks exchange: a failure of one is known to all, who save together
                    leaving = wish.requested or self.clock.step == last
                    upcoming = ((), 0.0) if leaving else self._fetch(batches)
                    stop, any_bad, gone = dist.any_rank(
                        wish.requested, bool(bad), isinstance(upcoming, UserError | RunError)
                    )
                    if any_bad:
                        bad_images.add(dist.gather_lists(bad), step=self.clock.step)
                    too_many = bad_images.too_many(self.clock.step * batch_size)
                    due = due or self.clock.step % runtime.checkpoint_every == 0 or self.clock.step == last
                    due = due or self.clock.step in candidates
                    done = self.clock.step == last and self.clock.bad_steps < steps
                    # after a bad step what is due waits for a good one, unless this is the last word
                    saved = stop or too_many or done or (due and not last_is_bad(self.clock))
                    if saved:
                        journal.flush(self.clock.step, clock=self.clock.seconds)
                        self._save()
                    if too_many:
                        raise RunError(
                            f"{too_many}; {newest(self.run)}; mend or remove them (dinokit data check lists all), or "
                            "allow more with --data.max_bad_ratio and the same command continues"
                        )
                    if stop and self.clock.step < steps:
                        raise Interrupted(f"stopped at step {self.clock.step} of {steps}; {newest(self.run)}")
                    if saved and dist.is_main():
                        self.on_checkpoint(self.clock.step, self.run.checkpoint(self.clock.step))
                    if saved:
                        due = False
                        dist.barrier()  # the one place where ranks may wait for long
                    if gone:
                        self._leave_without_images(upcoming, journal)
                info(self.supply.verdict())
        finally:
            journal.close()
        if self.clock.bad_steps == steps:
            raise RunError(f"none of the {steps} steps had a finite loss and gradient; lower optim.lr in a new run")

    def _go_back(self, divergence: Diverged) -> None:
        saved = self.run.steps(with_state=True)[-1]
        back_to = self.run.clock(saved)
        dist.barrier()  # all have read it before rank 0 changes it
        lowered = self.guard.lowered(self.clock, back_to=back_to, why=divergence)
        if dist.is_main():
            self.run.amend(lowered)
        dist.barrier()
        self.leg, self.trainer, self.clock = opened(self.run, self.config, self.device, self.source)

    def _fetch(self, batches: Iterator[Batch]) -> _Upcoming:
        """Return the micro-batches of a step and the seconds they took, or why there are none."""
        began = time.monotonic()
        try:
            micro_batches = tuple(next(batches) for _ in range(self.leg.experiment.data.accumulate))
        except (UserError, RunError) as error:
            return error
        return micro_batches, time.monotonic() - began

    def _step(self, upcoming: tuple[Sequence[Batch], float], journal: Journal, monitor: Monitor) -> list[BadRecord]:
        """Take one step and return the images that this rank could not read."""
        micro_batches, waited = upcoming
        began = time.monotonic()
        report = self.trainer.step([batch.views for batch in micro_batches], step=self.clock.step)
        seconds = time.monotonic() - began + waited
        self.supply.add(micro_batches, waited=waited, seconds=seconds)
        self.guard.judge(report, self.clock, () if report.finite else self._places(micro_batches))
        self.clock.step += 1
        self.clock.seconds += seconds
        taken = report.values if report.finite else {}
        values = taken | monitor.after(self.clock.step, micro_batches, seconds=seconds)
        images = self.leg.experiment.data.batch_size
        journal.add(self.clock.step, values, images=images, seconds=seconds, waited=waited, clock=self.clock.seconds)
        return [record for batch in micro_batches for record in batch.bad]

    def _places(self, micro_batches: Sequence[Batch]) -> list[Place]:
        if self.trainer.team is not None and self.trainer.team.number > 0:
            return []  # the first team names them
        return [
            Place(index, self.source.key(index), dist.rank(), batch.micro)
            for batch in micro_batches
            for index in batch.indices.tolist()
        ]

    def _leave_without_images(self, upcoming: _Upcoming, journal: Journal) -> NoReturn:
        """Save what was learned before no batch came; images that never were there are a mistake."""
        failures = [upcoming] if isinstance(upcoming, UserError | RunError) else []
        said = dist.gather_lists([(str(each), isinstance(each, UserError)) for each in failures])
        reason, mistaken = said[0]
        if self.clock.step == 0 and mistaken:
            raise UserError(reason)
        if self.clock.step not in self.run.steps(with_state=True):
            journal.flush(self.clock.step, clock=self.clock.seconds)
            self._save()
        raise RunError(f"{reason}; {newest(self.run)}; the same command continues")

    def _save(self) -> None:
        self.trainer.catch_up()
        if not dist.is_main() and not self.trainer.sharded:  # all ranks hold the same state
            return
        self.run.save(
            self.clock.step,
            state=self.trainer.state(),
            clock=self.clock,
            models={
                file: (
                    shard.whole(network.state_dict()),
                    header(architecture, self.leg.experiment.data.pixels, step=self.clock.step),
                )
                for file, (network, architecture) in self.trainer.models().items()
            },
            keep=self.config.runtime.keep,
        )
