"""What of an embedded image is compared: CLS, the generalised mean of its patches (GeM), or both.

A row of a pool is CLS and what is joined to it, of length 1 as a whole. Here its halves are made length 1 each, so that
neither drowns the other; both together are their mean cosine. Which of the three finds more is not the same for all
models: where images have classes it is measured (`choice.py`).
"""

from typing import Literal, get_args

import numpy
import torch
from jaxtyping import Float, Float32

from dinokit.features.embed import Feature
from dinokit.features.embedding import unit

By = Literal["cls", "gem", "both"]
KINDS: tuple[By, ...] = get_args(By)
WITH_GEM: Feature = "cls+gem"  # the feature of a pool that knows all three


def of(by: By) -> Feature:
    """Return the feature that a pool must have."""
    return "cls" if by == "cls" else WITH_GEM


def fits(by: By, feature: Feature) -> bool:
    """Tell whether a pool of a feature can be searched by a descriptor."""
    return by == "cls" or feature == WITH_GEM


def described(
    rows: Float[numpy.ndarray, "row number"], by: By, *, feature: Feature
) -> Float32[numpy.ndarray, "row dim"]:
    """Return what is compared of rows of a pool, of length 1.

    Args:
        feature: of the pool.
    """
    assert fits(by, feature)
    halves = numpy.split(rows, 1 if feature == "cls" else 2, axis=1)
    cls, gem = torch.from_numpy(halves[0]), torch.from_numpy(halves[-1])
    if by == "both":
        return (torch.cat([unit(cls), unit(gem)], dim=1) / 2**0.5).float().numpy()
    return unit(cls if by == "cls" else gem).float().numpy()
