"""The run: trains step by step, stage by stage, saves, and leaves cleanly when it is asked to.

Every step is a function of (seed, step) and the saved state, so the same command continues an interrupted run bit by
bit.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from dinokit.core import dist
from dinokit.core.messages import RunError, UserError, info, is_main
from dinokit.core.stopping import Stop, stop_requests
from dinokit.run.feed import BadImages, Diverged, Place, Supplied, Supply, feed, last_is_bad, lowered, skip
from dinokit.run.handover import next_stage, resume_or_begin
from dinokit.run.monitor import Monitor
from dinokit.run.progress import Journal
from dinokit.run.setup import Setup, check_room, newest, open_run, record_start, save, say_timeline, say_what_runs
from dinokit.sources.source import Source
from dinokit.training.config import TrainConfig


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop and has saved; the same command continues it. What follows in a program is left out."""


def pretrain(
    config: TrainConfig,
    out: Path,
    *,
    images: Source | None = None,
    on_checkpoint: Callable[[int, Path], object] = lambda step, path: None,
    on_step: Callable[[], None] = lambda: None,
) -> None:
    """Train until the experiment's last step, continuing what is in `out`.

    Args:
        images: if they are open already, with the channels of the backbone.
        on_checkpoint: called with step and folder after every checkpoint; with the one that a start begins from after
            its first step. True ends the run there.
        on_step: called after every step by rank 0, for which the others wait.

    Raises:
        UserError: if the data, the folder or the settings do not fit.
        Interrupted: after SIGINT, SIGTERM, SIGHUP or SIGUSR1, with a checkpoint of the last whole step written.
        RunError: if it cannot go on; the message says what was saved.
    """
    with open_run(config, out, images) as setup:
        _Session(setup, on_checkpoint, on_step).train()


class _Enough(Exception):
    """Who looked at a checkpoint has ended the run."""


class _Session:
    """One start of a run, from its newest checkpoint to its end or an interruption."""

    def __init__(self, setup: Setup, on_checkpoint: Callable[[int, Path], object], on_step: Callable[[], None]) -> None:
        """Load or build what trains; all ranks must call together."""
        self.setup, self.on_checkpoint, self.on_step = setup, on_checkpoint, on_step
        self.run, self.runtime, experiment = setup.run, setup.config.runtime, setup.config.experiment
        self.steps = setup.stages[-1].last  # of the whole run
        self.candidates = experiment.candidates()
        self.stage, self.trainer, self.clock = resume_or_begin(setup)

    def train(self) -> None:
        """Train stage after stage to the end; after too many bad steps go back and try with a lower rate."""
        say_timeline(self.setup)
        check_room(self.setup, self.trainer)
        if is_main():
            record_start(self.setup)
        with stop_requests() as wish:
            while True:
                say_what_runs(self.setup, self.trainer, self.clock, self.stage)
                try:
                    self._train_stage(wish)
                    following = next_stage(self.setup, self.stage, self.trainer)
                except Diverged as divergence:
                    self._go_back(divergence)
                    continue
                except _Enough:
                    return
                if following is None:
                    return
                self.stage, self.trainer = following

    def _train_stage(self, wish: Stop) -> None:
        last = self.stage.last
        self.due = False  # a checkpoint is; after a bad step it waits for a good one
        (fresh,) = dist.any_rank(is_main() and not self.run.steps())
        if fresh:
            save(self.setup, self.trainer, self.clock)
        begun = self.clock.step
        if begun >= self.steps:
            self._hand_over_checkpoint(begun)
            info(f"{self.run.path}: all {self.steps} steps are done; to train on: --from {self.run.path} --out ANOTHER")
            return
        ahead = self.clock.ahead
        supply = Supply(feed(self.setup, self.trainer), start=self.clock.step + ahead, stop=last + ahead, wish=wish)
        # read before the first step, which needs all ranks: nobody writes yet
        allowed = self.runtime.data.max_bad_ratio
        bad_images = BadImages(self.run.bad_images, images=len(self.setup.images), max_ratio=allowed)
        with Journal(self.setup, start=self.clock.step).shown() as journal:
            monitor = Monitor(self.setup, self.trainer, history=journal.lines())
            journal.judge = monitor.judge
            upcoming = supply.fetch()
            stop, gone = dist.any_rank(wish.requested, upcoming.failure is not None)
            while self.clock.step < last:
                if gone:
                    self._leave_without_images(upcoming, journal, stop=stop)
                self._step(upcoming, supply, journal, monitor)
                # before the message that all ranks exchange: a failure of one is known to all, who save together
                bad = [record for batch in upcoming.micro_batches for record in batch.bad]
                leaving = wish.requested or self.clock.step == last
                upcoming = Supplied() if leaving else supply.fetch()
                stop, any_bad, gone = dist.any_rank(wish.requested, bool(bad), upcoming.failure is not None)
                if any_bad:
                    bad_images.add(dist.gather_lists(bad), step=self.clock.step)
                too_many = bad_images.too_many(self.clock.step * self.stage.experiment.data.batch_size)
                # now that it is seen to train, for a look may take long; who leaves saves first, and may have no time
                if self.clock.step == begun + 1 and not (stop or too_many or gone):
                    self._hand_over_checkpoint(begun)
                    (stop,) = dist.any_rank(wish.requested)
                self._save_what_is_due(journal, stop=stop, too_many=too_many)
            info(supply.verdict())
        if self.clock.bad_steps == self.steps:
            raise RunError(
                f"none of the {self.steps} steps had a finite loss and gradient; lower optim.lr in a new run"
            )

    def _save_what_is_due(self, journal: Journal, *, stop: bool, too_many: str) -> None:
        """Save where a checkpoint is due, and leave if somebody asked or too many images are bad."""
        step = self.clock.step
        self.due |= step % self.runtime.checkpoint_every == 0 or step == self.stage.last or step in self.candidates
        self.due |= self.runtime.eval.saves(step)
        done = step == self.stage.last and self.clock.bad_steps < self.steps
        # after a bad step what is due waits for a good one, unless this is the last word
        if not (stop or too_many or done or (self.due and not last_is_bad(self.clock))):
            return
        journal.flush(self.clock)
        save(self.setup, self.trainer, self.clock)
        if too_many:
            raise RunError(
                f"{too_many}; {newest(self.run)}; mend or remove them (dinokit data check lists all), or "
                "allow more with --data.max_bad_ratio and the same command continues"
            )
        if stop and step < self.steps:
            raise self._interrupted()
        self.due = False
        self._hand_over_checkpoint(step)

    def _hand_over_checkpoint(self, step: int) -> None:
        """Let rank 0 look at a checkpoint, and end the run: the one place where the others may wait for long."""
        (enough,) = dist.any_rank(is_main() and self.on_checkpoint(step, self.run.checkpoint(step)) is True)
        if enough:
            raise _Enough

    def _go_back(self, divergence: Diverged) -> None:
        back_to = self.run.clock(self.run.steps(with_state=True)[-1])
        dist.barrier()  # all have read it before rank 0 changes it
        clock = lowered(self.setup, self.clock, back_to=back_to, why=divergence)
        if is_main():
            self.run.amend(clock)
        dist.barrier()
        self.stage, self.trainer, self.clock = resume_or_begin(self.setup)

    def _step(self, upcoming: Supplied, supply: Supply, journal: Journal, monitor: Monitor) -> None:
        micro_batches = upcoming.micro_batches
        began = time.monotonic()
        report = self.trainer.step([batch.views for batch in micro_batches], step=self.clock.step)
        seconds = time.monotonic() - began + upcoming.waited
        supply.add(upcoming, seconds=seconds)
        if not report.finite:
            names = self.trainer.team is None or self.trainer.team.number == 0  # one team names the images
            places = [
                Place(index, self.setup.images.key(index), dist.rank(), batch.micro)
                for batch in micro_batches
                for index in batch.indices.tolist()
            ]
            skip(self.setup, report, self.clock, places if names else [])
        self.clock.step += 1
        self.clock.seconds += seconds
        values = report.values if report.finite else {}
        values = values | monitor.after(self.clock.step, micro_batches, seconds=seconds)
        images = self.stage.experiment.data.batch_size
        journal.add(self.clock, values, images=images, seconds=seconds, waited=upcoming.waited)
        if is_main():
            self.on_step()

    def _leave_without_images(self, upcoming: Supplied, journal: Journal, *, stop: bool) -> NoReturn:
        """Save what was learned before no batch came; images that never were there are a mistake."""
        failures = [] if upcoming.failure is None else [upcoming.failure]
        said = dist.gather_lists([(str(each), isinstance(each, UserError)) for each in failures])
        reason, mistaken = said[0]
        if self.clock.step == 0 and mistaken:
            raise UserError(reason)
        if self.clock.step not in self.run.steps(with_state=True):
            journal.flush(self.clock)
            save(self.setup, self.trainer, self.clock)
        if stop:
            raise self._interrupted()
        raise RunError(f"{reason}; {newest(self.run)}; the same command continues")

    def _interrupted(self) -> Interrupted:
        return Interrupted(f"stopped at step {self.clock.step} of {self.steps}; {newest(self.run)}")
