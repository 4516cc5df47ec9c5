"""What a run is fed with: its loader, whether that is fast enough, and what could not be used: images and steps.

Each bad image is listed once, and too many of them end the run. All ranks keep the same count, so that they stop
together; rank 0 writes. Lines carry their step, so that a run that goes back to a checkpoint also forgets what it found
later, and counts as if it had never been interrupted.

A step whose loss or gradient is not finite is skipped: it leaves no trace in weights, moments, teacher or centre.
RUN/bad_steps.jsonl gets what it takes to repeat it: its images, seed, and what was not finite; every draw of a step
follows from seed and step. When `runtime.rollback.after` of the last 100 steps were bad, in a row or not, the run
returns to its newest checkpoint and goes on from there with a lower learning rate and the images behind those of the
last bad step, for both may be the cause. Source: PaLM (arXiv:2204.02311) section 5.1, which skipped the batches around
each spike.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from math import isfinite
from pathlib import Path
from typing import final

from dinokit.checkpoints.store import Clock
from dinokit.core import device as devices
from dinokit.core import dist
from dinokit.core.files import append_jsonl, read_jsonl
from dinokit.core.messages import RunError, UserError, is_main, warn
from dinokit.core.stopping import Stop
from dinokit.run.setup import Setup
from dinokit.sources.source import Unusable
from dinokit.training.step import Report, Trainer
from dinokit.views.loader import Batch, Loader

WAITING = 0.2  # share of the time from which on the loader is the bottleneck
ENOUGH_SEEN = 1000  # images, or all there are, before a share of them means anything
WINDOW = 100  # steps in which the bad ones are counted
ENOUGH_BAD = 10  # images; a few broken files never end a run, however small the folder


def feed(setup: Setup, trainer: Trainer) -> Loader:
    """Make what gives this rank its micro-batches, from any step on."""
    images, data, wanted = setup.images, trainer.experiment.data, setup.config.runtime.workers
    # leave a rank one of its cores; more than 8 rarely pay, and none do where nothing has to be decoded
    own = 0 if images.decoded else min(max(devices.cores() // dist.local_world_size(), 1) - 1, 8)
    with trainer.together():
        rank, world = dist.rank(), dist.world_size()
    return Loader(
        images,
        data.views,
        data.masks if "masks" in trainer.needs else None,
        data.pixels,
        patch_size=trainer.patch_size,
        batch=data.batch_size // data.accumulate // world,
        accumulate=data.accumulate,
        rank=rank,
        world=world,
        seed=trainer.experiment.seed,
        min_side=data.min_side,
        workers=own if wanted is None else wanted,
        pin_memory=trainer.device.type == "cuda",
        distort=setup.config.runtime.distort == "loader",
    )


@dataclass(frozen=True)
class Supplied:
    """What this rank has of a step: its micro-batches, or why there are none."""

    micro_batches: tuple[Batch, ...] = ()
    waited: float = 0.0  # seconds
    failure: UserError | RunError | None = None


@final
class Supply:
    """What the loader gives from some step on, and how fast it and the model are, measured while both work."""

    def __init__(self, loader: Loader, *, start: int, stop: int, wish: Stop) -> None:
        self.loader = loader
        self.batches: Iterator[Batch] = loader.batches(start, stop, unwanted=lambda: wish.requested)
        self.building = self.waited = self.passed = 0.0  # seconds
        self.images = 0  # of this rank

    def fetch(self) -> Supplied:
        """Wait for the next step's micro-batches."""
        began = time.monotonic()
        try:
            micro_batches = tuple(next(self.batches) for _ in range(self.loader.accumulate))
        except (UserError, RunError) as error:
            return Supplied(failure=error)
        return Supplied(micro_batches, time.monotonic() - began)

    def add(self, step: Supplied, *, seconds: float) -> None:
        """Count a step and the seconds that it took."""
        self.building += sum(batch.seconds for batch in step.micro_batches)
        self.images += sum(len(batch.indices) for batch in step.micro_batches)
        self.waited += step.waited
        self.passed += seconds

    def verdict(self) -> str:
        """Say which of the two the run waits for, and what to do; nothing before the first step."""
        if not self.images:
            return ""
        processes = max(self.loader.workers, 1)
        supplied = self.images * processes * self.loader.world / max(self.building, 1e-9)
        used = self.images * self.loader.world / max(self.passed - self.waited, 1e-9)
        rates = f"the loader supplies {supplied:,.0f} img/s, the model uses {used:,.0f}"
        share = self.waited / max(self.passed, 1e-9)
        if share < WAITING:
            return f"{rates}: not the bottleneck"
        free = devices.cores() // dist.local_world_size() - self.loader.workers
        more = f"--runtime.workers {self.loader.workers + free}" if free > 0 else "a machine with more cores"
        return f"{share:.0%} of the time is waiting for data ({rates}): {more}, smaller images, or fewer local crops"


@final
class BadImages:
    """The distinct bad images of a run so far, from its bad_images.jsonl.

    Args:
        images: in the source.
        max_ratio: of the distinct images seen that may be bad.
    """

    def __init__(self, path: Path, *, images: int, max_ratio: float) -> None:
        self.path = path
        self.images = images
        self.max_ratio = max_ratio
        self._keys = {str(line.get("key")) for line in read_jsonl(path)}

    def add(self, records: Sequence[Unusable], *, step: int) -> None:
        """List what is new; all ranks call with the records of all ranks."""
        for record in records:
            if record.key in self._keys:
                continue
            self._keys.add(record.key)
            if is_main():
                append_jsonl(self.path, {"key": record.key, "reason": record.reason, "step": step})
                warn(f"replaced {record.key}: {record.reason}")

    def too_many(self, consumed: int) -> str:
        """Say what is too much after so many images, repetitions included; nothing if it is not."""
        bad, seen = len(self._keys), min(consumed, self.images)
        if bad < ENOUGH_BAD or seen < min(ENOUGH_SEEN, self.images) or bad <= self.max_ratio * seen:
            return ""
        return (
            f"{bad:,} of the {seen:,} images seen ({100 * bad / seen:.1f} %) could not be used, more than "
            f"data.max_bad_ratio {self.max_ratio:g} allows; {self.path} lists them"
        )


class Diverged(Exception):
    """Too many steps were not finite."""


def last_is_bad(clock: Clock) -> bool:
    """Tell whether the last step was skipped: nothing then says that the weights are good."""
    return clock.recent[-1:] == (clock.step,)


@dataclass(frozen=True)
class Place:
    """Where an image of a step came from."""

    index: int  # in the source
    key: str
    rank: int
    micro: int  # which of the step's micro-batches


def skip(setup: Setup, report: Report, clock: Clock, images: Sequence[Place]) -> None:
    """Count and write down a step that is not finite, before the clock moves on; all ranks must call together.

    Args:
        images: this rank's, in the order of its micro-batches.

    Raises:
        Diverged: if it was one too many.
    """
    step, run, config = clock.step + 1, setup.run, setup.config
    clock.recent = (*(bad for bad in clock.recent if bad > step - WINDOW), step)
    clock.bad_steps += 1
    everyone = dist.gather_lists(list(images))
    if is_main():
        line: dict[str, object] = {
            "step": step,
            "rollbacks": clock.rollbacks,
            "lr_factor": clock.lr_factor,
            "seed": config.experiment.seed,
            "fault": report.fault,
            "values": {name: value if isfinite(value) else str(value) for name, value in report.values.items()},
            "ahead": clock.ahead,
            "images": [asdict(place) for place in everyone],
        }
        append_jsonl(run.bad_steps, line)
    warn(
        f"step {step} is skipped: {report.fault}; look with dinokit replay {run.path} {step}, as long as a "
        "state from before it is kept (runtime.keep)"
    )
    if len(clock.recent) >= config.runtime.rollback.after:
        raise Diverged(f"{len(clock.recent)} of the last {min(WINDOW, step)} steps had no finite loss or gradient")


def lowered(setup: Setup, clock: Clock, *, back_to: Clock, why: Diverged) -> Clock:
    """Return the clock of a run that goes back.

    Raises:
        RunError: if it has gone back often enough.
    """
    config = setup.config.runtime.rollback
    if clock.rollbacks >= config.most:
        raise RunError(
            f"{why}, after {clock.rollbacks} times going back with a lower learning rate; saved is step "
            f"{back_to.step}; look with dinokit replay {setup.run.path} {clock.step + 1}, then lower optim.lr in a "
            "new run"
        )
    behind = clock.step + 1 + clock.ahead  # the batch that nobody has seen
    found = replace(
        back_to,
        bad_steps=clock.bad_steps,
        recent=(),
        rollbacks=clock.rollbacks + 1,
        lr_factor=clock.lr_factor * config.factor,
        ahead=behind - back_to.step,
    )
    warn(
        f"{why}: back to step {found.step} with {found.lr_factor:g} of the learning rate and other images "
        f"({found.rollbacks} of at most {config.most} times)"
    )
    return found
