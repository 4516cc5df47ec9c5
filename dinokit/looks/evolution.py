"""The same images through a training: three components of every checkpoint as colours, and cosines with marked patches.

The components are each checkpoint's own: those of its largest variance, whitened, over the patches of all images. Only
their names are free - which is red, which way it goes, how the three are turned among themselves - and that freedom is
used up: the scores of a checkpoint are turned by the orthogonal matrix that brings them nearest to the scores of the
last one (Procrustes: of the singular vectors of their product). A turn of whitened components keeps them whitened, so
nothing is shown that the checkpoint has not learned; a fit of all features onto the last ones would paint the last
picture over an untrained network. Source: the figures of Gram anchoring in DINOv3 (arXiv:2508.10104).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy
import torch
from jaxtyping import Float64, UInt8
from torch import Tensor

from dinokit.core.numbers import at_least, between
from dinokit.looks.field import Field, joint
from dinokit.looks.pca import Axes, coloured, outwards

Colours = UInt8[numpy.ndarray, "rows columns 3"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which checkpoints, and what is marked."""

    columns: int = at_least(2, 6)  # checkpoints, evenly spaced, the first and the last among them; a clip shows all
    at: tuple[tuple[float, float], ...] = ()  # pixels x,y of the first image as it lies there
    low: float | None = between(-1, 1, None)  # cosine of the darkest colour, 1 of the brightest; null: of all steps


def agreeing(last: Sequence[Field]) -> Callable[[Sequence[Field]], list[Colours]]:
    """Return what colours the images of any checkpoint as far as possible as those of the last one.

    Args:
        last: the images at the last checkpoint; at others they are the same ones, in this order.
    """
    wanted = _scores(last)

    def paint(fields: Sequence[Field]) -> list[Colours]:
        scores = _scores(fields)
        shares = torch.sigmoid(2 * scores @ turn(scores, wanted))  # [patch, component]
        parts = shares.split([each.patches.shape[0] * each.patches.shape[1] for each in fields])
        return [coloured(part.reshape(*each.patches.shape[:2], 3)) for part, each in zip(parts, fields, strict=True)]

    return paint


def turn(
    scores: Float64[Tensor, "patch component"], wanted: Float64[Tensor, "patch component"]
) -> Float64[Tensor, "component component"]:
    """Return the orthogonal matrix that brings scores nearest to others of the same patches; it may mirror."""
    left, _, right = torch.linalg.svd(scores.T @ wanted)
    return left @ right


def _scores(fields: Sequence[Field]) -> Float64[Tensor, "patch 3"]:
    rows = joint(fields)
    return outwards(Axes.of(rows, 3), fields).whitened(rows)
