"""Random crops of a batch, of which a training takes a step; made by an earlier build of dinokit, too (against.py)."""

import torch

from dinokit.training.config import Experiment
from dinokit.views.multicrop import Views

HIDDEN = 0.3  # share of the patches of each masked crop; half of the crops are masked


def views(experiment: Experiment, device: torch.device) -> Views:
    """Make random crops of a batch where they are needed."""
    config, data = experiment.data.views.variants()[0], experiment.data
    channels, batch = experiment.backbone.channels, data.batch_size
    patches = (config.global_size // experiment.backbone.patch_size) ** 2
    masks = torch.zeros(2, batch, patches, dtype=torch.bool)
    masks[0, :, torch.randperm(patches, generator=torch.Generator().manual_seed(0))[: round(HIDDEN * patches)]] = True

    def crops(count: int, side: int) -> torch.Tensor:
        return torch.randn(count, batch, channels, side, side, device=device)

    anchors = crops(2, config.anchor_size) if config.anchor_size else None
    local = crops(config.local_count, config.local_size)
    return Views(crops(2, config.global_size), local, masks.to(device), anchors)
