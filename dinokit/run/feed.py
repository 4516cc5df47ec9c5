"""The loader of a run, from its settings, and whether it is fast enough."""

from collections.abc import Sequence
from typing import final

from dinokit.core import device as devices
from dinokit.core import dist
from dinokit.sources.source import Source
from dinokit.training.config import TrainConfig
from dinokit.training.step import Trainer
from dinokit.views.loader import Batch, Loader

WAITING = 0.2  # share of the time from which on the loader is the bottleneck


def feed(config: TrainConfig, source: Source, trainer: Trainer) -> Loader:
    """Make what gives this rank its micro-batches, from any step on."""
    experiment = config.experiment
    with trainer.together():
        rank, world = dist.rank(), dist.world_size()
    return Loader(
        source,
        experiment.data.views,
        experiment.data.masks if "masks" in trainer.needs else None,
        experiment.data.pixels,
        patch_size=trainer.patch_size,
        batch=experiment.data.batch_size // experiment.data.accumulate // world,
        accumulate=experiment.data.accumulate,
        rank=rank,
        world=world,
        seed=experiment.seed,
        min_side=experiment.data.min_side,
        workers=_workers(config.runtime.workers, source),
        pin_memory=trainer.device.type == "cuda",
        distort=config.runtime.distort == "loader",
    )


def _workers(wanted: int | None, source: Source) -> int:
    """Leave a rank one of its cores; more than 8 rarely pay, and none do where nothing has to be decoded."""
    if wanted is not None:
        return wanted
    return 0 if source.decoded else min(max(devices.cores() // dist.local_world_size(), 1) - 1, 8)


@final
class Supply:
    """What the loader can give and what the model takes, measured while both work."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader
        self.building = self.waited = self.passed = 0.0  # seconds
        self.images = 0  # of this rank

    def add(self, micro_batches: Sequence[Batch], *, waited: float, seconds: float) -> None:
        """Count a step.

        Args:
            waited: of the seconds, for data.
        """
        self.building += sum(batch.seconds for batch in micro_batches)
        self.images += sum(len(batch.indices) for batch in micro_batches)
        self.waited += waited
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
