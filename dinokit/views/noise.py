"""Gaussian noise in a square of a view, so that features learn to do without what is in it (Patch Gaussian).

The square lies about a place drawn from the whole view and is cut at its border; values stay in [0, 1]. The noise of a
view follows from one of its uniform numbers and is drawn by the processor, so it is the same on every device.
Source: Patch Gaussian (arXiv:1906.02611, section 3); FastDINOv2 (arXiv:2507.03779) sees it in its last quarter. Its
published code adds it to every image before crops are cut, with a side of 1 pixel to the whole and a deviation of 0 to
0.5; here it is in half of the crops, of which no square hides more than a quarter.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Float64
from torch import Tensor

from dinokit.core.numbers import between
from dinokit.core.seed import generator

DRAWS = 6  # uniforms per view: noise or not, the centre's row and column, side, deviation, and the noise itself


@dataclass(frozen=True, kw_only=True)
class Noise:
    """How often, where and how strong."""

    probability: float = between(0, 1, 0.5)
    side: tuple[float, float] = between(0, 1, (0.1, 0.5), without=0, rising=True)  # of the square, of the view's side
    sigma: tuple[float, float] = between(0, 1, (0.1, 0.5), without=0, rising=True)  # standard deviation; white is 1


def add(
    images: Float32[Tensor, "sample channel height width"], uniforms: Float64[np.ndarray, "sample draw"], config: Noise
) -> Float32[Tensor, "sample channel height width"]:
    """Add noise to some of the views in [0, 1], in place.

    Args:
        uniforms: DRAWS numbers in [0, 1) for each view.
    """
    channels, *sides = images.shape[1:]
    for image, (whether, *centre, side, sigma, key) in zip(images, uniforms.tolist(), strict=True):
        if whether >= config.probability:
            continue
        reach = _within(config.side, side) / 2
        rows, columns = (
            slice(max(0, round((place - reach) * length)), min(length, max(round((place + reach) * length), 1)))
            for place, length in zip(centre, sides, strict=True)
        )
        square = image[:, rows, columns]
        drawn = generator(int(key * 2**53)).standard_normal((channels, *square.shape[1:]), dtype=np.float32)
        square.add_(torch.from_numpy(drawn).to(images.device), alpha=_within(config.sigma, sigma)).clamp_(0, 1)
    return images


def _within(bounds: tuple[float, float], share: float) -> float:
    low, high = bounds
    return low + (high - low) * share
