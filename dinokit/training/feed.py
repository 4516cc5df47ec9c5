"""The loader of a run, from its settings."""

from dinokit.core import device as devices
from dinokit.core import dist
from dinokit.data.loader import Loader
from dinokit.data.source import Source
from dinokit.training.config import TrainConfig
from dinokit.training.step import Trainer


def feed(config: TrainConfig, source: Source, trainer: Trainer) -> Loader:
    """Make what gives this rank its micro-batches, from any step on."""
    experiment = config.experiment
    return Loader(
        source,
        experiment.data.views,
        experiment.data.masks if "masks" in trainer.needs else None,
        experiment.data.pixels,
        patch_size=experiment.backbone.patch_size,
        batch=experiment.data.batch_size // experiment.data.accumulate // dist.world_size(),
        accumulate=experiment.data.accumulate,
        rank=dist.rank(),
        world=dist.world_size(),
        seed=experiment.seed,
        min_side=experiment.data.min_side,
        workers=_workers(config.runtime.workers, source),
        pin_memory=trainer.device.type == "cuda",
    )


def _workers(wanted: int | None, source: Source) -> int:
    """Leave a rank one of its cores; more than 8 rarely pay, and none do where nothing has to be decoded."""
    if wanted is not None:
        return wanted
    return 0 if source.decoded else min(max(devices.cores() // dist.local_world_size(), 1) - 1, 8)
