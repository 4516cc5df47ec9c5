"""In which precision a run multiplies: settled as it begins, and kept.

What is faster is timed (core/device.py) and may be another on another machine, and it changes numbers. So config.yaml
says bf16 or fp32, and a run that goes on, wherever, goes on as it began.
"""

import torch

from dinokit.checkpoints.store import RunFolder
from dinokit.core import device as devices
from dinokit.core import dist
from dinokit.core.device import Precision
from dinokit.core.messages import is_main
from dinokit.training.config import TrainConfig, read, with_settings


def settled(config: TrainConfig, run: RunFolder, device: torch.device) -> TrainConfig:
    """Put in the place of "auto" what the run began with, else what is faster here."""
    experiment = config.experiment
    if experiment.precision != "auto":
        return config
    if run.metrics.exists() or run.steps():
        precision = read(run.config).experiment.precision
        if precision == "auto":  # of earlier versions, which took bf16 wherever there are instructions for it
            precision = "bf16" if devices.has_bf16(device) else "fp32"
    else:
        precision = devices.settled(device, "auto", dim=experiment.width)
    return _with(config, precision)


def agreed(config: TrainConfig) -> TrainConfig:
    """Take over what rank 0 has settled, whose machine may be another; all ranks must call together."""
    (bf16,) = dist.any_rank(is_main() and config.experiment.precision == "bf16")
    return _with(config, "bf16" if bf16 else "fp32")


def _with(config: TrainConfig, precision: Precision) -> TrainConfig:
    return with_settings(config, {"experiment.precision": precision})
