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
from PIL import Image, ImageDraw
from torch import Tensor

from dinokit.core.messages import progress
from dinokit.core.numbers import at_least, between
from dinokit.looks import similarity
from dinokit.looks.field import Field, joint
from dinokit.looks.pca import Axes, coloured, outwards
from dinokit.looks.sheet import Cell, Row, photo

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
        parts = torch.split(shares, [each.patches.shape[0] * each.patches.shape[1] for each in fields])
        return [coloured(part.reshape(*each.patches.shape[:2], 3)) for part, each in zip(parts, fields, strict=True)]

    return paint


def turn(
    scores: Float64[Tensor, "patch component"], wanted: Float64[Tensor, "patch component"]
) -> Float64[Tensor, "component component"]:
    """Return the orthogonal matrix that brings scores nearest to others of the same patches; it may mirror."""
    left, _, right = torch.linalg.svd(scores.T @ wanted)
    return torch.matmul(left, right)


def rows(steps: Sequence[int], see: Callable[[int], Sequence[Field]], config: Config) -> list[Row]:
    """Return for every image a row of its components through the steps, and for every mark one of its cosines.

    Args:
        see: what makes the fields of the images at a step; those of one step are held beside the last ones.
    """
    last = see(steps[-1])
    paint, marks = agreeing(last), [last[0].at(x, y) for x, y in config.at]
    colours, cosines = list[list[Colours]](), list[list[list[Float64[Tensor, "_ _"]]]]()  # [step][image], of each mark
    for step in progress(steps, len(steps)):
        fields = last if step == steps[-1] else see(step)
        colours.append(paint(fields))
        cosines.append([[similarity.cosines(fields[0], mark, each) for mark in marks] for each in fields])
    scales = [
        similarity.scale([image[number] for step in cosines for image in step], config.low)
        for number in range(len(marks))
    ]
    drawn = list[Row]()
    for image, each in enumerate(last):
        first = photo(each)
        words = [f"step {step:,}" for step in steps]
        drawn.append([first, *(Cell(word, step[image], first.size) for word, step in zip(words, colours))])
        for number, (mark, (low, high)) in enumerate(zip(marks, scales)):
            beside = Cell(f"cosine {low:.2f} to {high:.2f}", _ringed(each, mark if image == 0 else None), first.size)
            maps = [similarity.coloured(step[image][number], (low, high)) for step in cosines]
            drawn.append([beside, *(Cell(word, one, first.size) for word, one in zip(words, maps))])
    return drawn


def _ringed(seen: Field, mark: tuple[int, int] | None) -> UInt8[numpy.ndarray, "height width 3"]:
    """Return a picture with a frame around a patch."""
    picture = Image.fromarray(seen.picture)
    if mark is not None:
        side = picture.height / seen.patches.shape[0]
        left, top = mark[1] * side, mark[0] * side
        box = (left - 3, top - 3, left + side + 2, top + side + 2)
        ImageDraw.Draw(picture).rectangle(box, outline=similarity.MARK, width=3)
    return numpy.asarray(picture)


def _scores(fields: Sequence[Field]) -> Float64[Tensor, "patch 3"]:
    rows = joint(fields)
    return outwards(Axes.of(rows, 3), fields).whitened(rows)
