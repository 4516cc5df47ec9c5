"""What the images of a model must look like: the one definition that training, evaluation and weights files share."""

import math
from dataclasses import dataclass

from dinokit.core.errors import UserError

LARGEST = 1 << 14  # side in pixels; above it a number in a weights file is damage, and would ask for gigabytes


@dataclass(frozen=True)
class Pixels:
    """What the images of a backbone must look like; the defaults are the statistics of ImageNet."""

    mean: tuple[float, ...] = (0.485, 0.456, 0.406)  # subtracted from values in [0, 1]; per channel, or one for all
    std: tuple[float, ...] = (0.229, 0.224, 0.225)  # then divided by; per channel, or one for all
    size: int | None = None  # side in pixels for evaluation; None keeps the native size

    def __post_init__(self) -> None:
        if not self.mean or len(self.mean) != len(self.std):
            raise UserError(f"pixels need as many means as stds, got {len(self.mean)} and {len(self.std)}")
        if not all(map(math.isfinite, (*self.mean, *self.std))) or min(self.std) <= 0:
            raise UserError(f"pixels.mean must be finite and pixels.std positive, got {self.mean} and {self.std}")
        if self.size is not None and not 1 <= self.size <= LARGEST:
            raise UserError(f"pixels.size must be a side of 1 to {LARGEST} pixels or null, got {self.size}")

    def check_channels(self, channels: int) -> None:
        """Check that the normalisation fits images with this number of channels.

        Raises:
            UserError: names both numbers.
        """
        if len(self.mean) not in (1, channels):
            have = f"pixels.mean and pixels.std have {len(self.mean)} values, the images {channels} channels"
            raise UserError(f"{have}; give 1 or {channels} values")


def default_pixels(channels: int) -> Pixels:
    """Return ImageNet's statistics for three channels; for any other number, what takes [0, 1] to [-1, 1]."""
    return Pixels() if channels == 3 else Pixels((0.5,), (0.5,))
