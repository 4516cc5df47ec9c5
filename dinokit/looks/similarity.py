"""How alike is every patch to a marked one, in the same image and in others: maps of cosines.

Source: the figures of DINOv3 (arXiv:2508.10104) in which a patch is marked in red. Cosines are coloured from the least
to the largest of all maps of a mark, or from `low` to 1, so that maps of several models can be compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy
import torch
from jaxtyping import Float64, UInt8
from torch import Tensor

from dinokit.core.messages import UserError
from dinokit.core.numbers import between
from dinokit.dense.draw import heat
from dinokit.features.embedding import unit
from dinokit.looks.field import Field, Map, Paint
from dinokit.models.features import Backbone

MARK = (0, 160, 255)  # a colour that the map has not
FLAT = 1e-9  # of a range of cosines


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is marked, and how cosines are coloured."""

    at: tuple[tuple[float, float], ...]  # pixels x,y of the first image as it lies there
    low: float | None = between(-1, 1, None)  # cosine of the darkest colour, 1 of the brightest; null: of these maps


def fit(_: Backbone, fields: Sequence[Field], config: Config) -> Paint:
    """Return what draws the cosines of an image with every mark of the first one; a map per mark."""
    if not config.at:
        raise UserError("nothing is marked; give --at X,Y, in pixels of the first image")
    marks = [(f"{x:g},{y:g}", fields[0].at(x, y)) for x, y in config.at]
    scales = [scale([cosines(fields[0], mark, each) for each in fields], config.low) for _, mark in marks]

    def paint(seen: Field) -> list[Map]:
        maps = []
        for (words, mark), (low, high) in zip(marks, scales):
            drawn = coloured(cosines(fields[0], mark, seen), (low, high))
            if seen is fields[0]:
                drawn[mark] = MARK
            maps.append((f"cosine with {words}: {low:.2f} to {high:.2f}", drawn))
        return maps

    return paint


def cosines(first: Field, mark: tuple[int, int], other: Field) -> Float64[Tensor, "rows columns"]:
    """Return the cosine of every patch of an image with a patch of the first one."""
    marked = unit(first.patches[mark][None])[0]
    return (unit(other.patches.flatten(0, 1)) @ marked).reshape(other.patches.shape[:2])


def scale(maps: Sequence[Float64[Tensor, "_ _"]], low: float | None = None) -> tuple[float, float]:
    """Return the cosines of the darkest and the brightest colour: the extremes of all maps, or `low` and 1."""
    if low is not None:
        return low, 1.0
    return min(float(each.min()) for each in maps), max(float(each.max()) for each in maps)


def coloured(
    cosines: Float64[Tensor, "rows columns"], scale: tuple[float, float]
) -> UInt8[numpy.ndarray, "rows columns 3"]:
    """Return cosines as colours between those of the scale; the brightest where all are alike, but for rounding."""
    low, high = scale
    shares = (cosines - low) / (high - low) if high - low > FLAT else torch.ones_like(cosines)
    return heat(shares.clamp(0, 1).numpy())
