"""Mean and standard deviation of every channel: what a model's normalisation should be told of new kinds of images.

Every image counts the same, whatever its size, as it does in training. The variance is that within images plus that
between their means (Chan, Golub & LeVeque 1983): exact in one pass, also where the mean is a thousand times the spread.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64

from dinokit.core.errors import UserError
from dinokit.core.prefetch import ahead
from dinokit.images import intensity
from dinokit.images.bad_image import BadImage
from dinokit.sources.base import Source, thinned


@dataclass(frozen=True)
class Stats:
    """Of values with 1.0 as white; one number per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    low: tuple[float, ...]  # the least value of all images
    high: tuple[float, ...]
    images: int
    bad: int  # left out


def stats(
    source: Source,
    *,
    limit: int | None = None,
    workers: int = 2,
    shown: Callable[[Iterable[object], int], Iterable[object]] = lambda items, total: items,
) -> Stats:
    """Measure all images of a source, or `limit` evenly spaced ones, at full size.

    Args:
        workers: threads that read.
        shown: passes the images on, one by one, to show how far it is.

    Raises:
        UserError: if no image is readable.
    """
    chosen = thinned(source, limit)
    mean, within, between = (np.zeros(source.channels) for _ in range(3))
    low, high = np.full(source.channels, np.inf), np.full(source.channels, -np.inf)
    images, first = 0, ""

    def look(index: int) -> Float64[np.ndarray, "4 channel"] | str:
        try:
            return _moments(chosen.read(index))
        except BadImage as error:
            return f"{chosen.key(index)}: {error}"

    for found in shown(ahead(look, len(chosen), workers=workers), len(chosen)):
        if not isinstance(found, np.ndarray):
            first = first or str(found)
            continue
        images += 1
        step = found[0] - mean
        mean += step / images
        between += step * (found[0] - mean)
        within += found[1]
        low, high = np.minimum(low, found[2]), np.maximum(high, found[3])
    if not images:
        raise UserError(f"no image of {source.name} can be used, the first is {first}")
    std = np.sqrt((within + between) / images)
    return Stats(
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        low=tuple(low.tolist()),
        high=tuple(high.tolist()),
        images=images,
        bad=len(chosen) - images,
    )


def _moments(image: intensity.Image) -> Float64[np.ndarray, "4 channel"]:
    """Return mean, variance, least and largest value of each channel."""
    rows = []
    for channel in image:  # one by one: float64 of a whole photo would be 8 times its size
        values = intensity.to_unit(channel).double()
        variance, mean = torch.var_mean(values, correction=0)
        rows.append([float(mean), float(variance), *map(float, torch.aminmax(values))])
    return np.array(rows).T
