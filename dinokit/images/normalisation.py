"""What the images of a model must look like: the one definition that training, evaluation and weights files share."""

from dataclasses import dataclass

from dinokit.core.bounds import above, between
from dinokit.core.errors import UserError

LARGEST = 1 << 14  # side in pixels; above it a number in a weights file is damage, and would ask for gigabytes


@dataclass(frozen=True)
class Pixels:
    """What the images of a backbone must look like; the defaults are the statistics of ImageNet."""

    mean: tuple[float, ...] = between(-1e18, 1e18, (0.485, 0.456, 0.406))  # of values in [0, 1]; one, or per channel
    std: tuple[float, ...] = above(0, (0.229, 0.224, 0.225))  # divides what is left, as many
    size: int | None = between(1, LARGEST, None)  # side in pixels for evaluation; null keeps the native size
    white: float | None = above(0, None)  # what is 1.0 in files of more than 8 bits; null: by the kind of file

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std):
            raise UserError(f"pixels need as many means as stds, got {len(self.mean)} and {len(self.std)}")

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
