"""What a run is made of: its folder, its settings, where it computes, what it looks at; and what is built of them."""

from dataclasses import dataclass
from functools import cached_property

import torch

from dinokit.checkpoints.store import RunFolder
from dinokit.core import dist
from dinokit.health.probe import Probe, open_probe
from dinokit.sources.source import Source
from dinokit.training.config import RunStage, TrainConfig
from dinokit.training.step import Trainer


@dataclass(frozen=True)
class Setup:
    """One start of a run, as all its parts need to know it."""

    run: RunFolder
    config: TrainConfig
    device: torch.device
    images: Source

    @cached_property
    def stages(self) -> tuple[RunStage, ...]:
        """The stages of the run, each with the whole of its settings."""
        return self.config.experiment.all_stages

    def build_trainer(self, stage: RunStage) -> Trainer:
        """Build what trains in a stage, with initial weights; if sharded, all ranks must call together."""
        runtime, several = self.config.runtime, dist.world_size() > 1
        return Trainer(
            stage.experiment,
            self.device,
            recompute=runtime.recompute,
            compiled=runtime.compile,
            sharded=runtime.sharding == "fsdp" and several,
            teams=runtime.groups and several,
            first=stage.first,
        )

    def probe(self, trainer: Trainer, *, images: int) -> Probe | None:
        """Read the few images by which networks are judged; None if there are fewer than two. All ranks must call."""
        data = trainer.experiment.data
        return open_probe(
            self.images,
            data.pixels,
            side=data.pixels.size or data.views.variants()[0].global_size,
            patch_size=trainer.backbone.student.patch_size,
            images=images,
            seed=trainer.experiment.seed,
        )
