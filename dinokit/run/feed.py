"""The loader of a run, from its settings, and whether it is fast enough."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

from dinokit.core import device as devices
from dinokit.core import dist
from dinokit.core.errors import RunError, UserError
from dinokit.run.setup import Setup
from dinokit.training.step import Trainer
from dinokit.views.loader import Batch, Loader

WAITING = 0.2  # share of the time from which on the loader is the bottleneck


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

    def __init__(self, loader: Loader, *, start: int, stop: int) -> None:
        self.loader = loader
        self.batches: Iterator[Batch] = loader.batches(start, stop)
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
