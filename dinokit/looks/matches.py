"""Which patches of two images belong together: lines between them, or one painted with the places of the other.

    sparse    patches that are each other's nearest, the most alike first, none within a few patches of another that is
              drawn (non-maximum suppression); a line has the colour of its place in the first image
    dense     every patch of the second image in the colour of the place of its nearest patch in the first

Nearest is the largest cosine, among patches of the foreground: what the first principal component of both images
together puts above 0. In `dense` a patch is black if it is background, or if its match's own match lies elsewhere.
Source: the matches of DINOv2 (arXiv:2304.07193, section 7.5), which takes the foreground in the same way.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy
import torch
from jaxtyping import Bool, Float64, Int64, UInt8
from torch import Tensor

from dinokit.core.messages import UserError
from dinokit.core.numbers import at_least
from dinokit.dense.matching import joined, nearest
from dinokit.features.embedding import unit
from dinokit.looks.field import Field
from dinokit.looks.pca import foreground
from dinokit.looks.sheet import Cell, Row, photo

# colours of the corners of an image; between them, what lies between
CORNERS = (((225, 50, 60), (250, 205, 50)), ((70, 60, 215), (40, 190, 130)))

Masks = tuple[Bool[Tensor, "_ _"], Bool[Tensor, "_ _"]]  # which patches of each image take part
Colours = UInt8[numpy.ndarray, "rows columns 3"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is matched and how it is drawn."""

    style: Literal["sparse", "dense"] = "sparse"  # lines between the images, or the places of one in the other
    among: Literal["foreground", "all"] = "foreground"  # patches; all suits scenes without an object in front
    lines: int = at_least(1, 20)  # of sparse, at most
    apart: int = at_least(0, 3)  # patches: sparse draws one line within so many; dense lets a way back miss by them


@dataclass(frozen=True)
class Matches:
    """Places of patches that belong together, [row, column] each, and their cosines."""

    first: Int64[Tensor, "match 2"]
    second: Int64[Tensor, "match 2"]
    cosine: Float64[Tensor, " match"]


def rows(title: str, fields: Sequence[Field], config: Config) -> list[Row]:
    """Draw what a model matches of two images; title is its name, empty where there is one model only."""
    if len(fields) != 2:
        raise UserError(f"matches are of two images, got {len(fields)}; give A and B")
    one, two = fields
    masks = _masks(one, two, config)
    colours = places(one)
    if config.style == "dense":
        second = painted(one, two, masks, colours, apart=config.apart)
        first = numpy.where(masks[0].numpy()[..., None], colours, 0).astype(numpy.uint8)
        cells = [photo(each) for each in fields]
        return [[cell, Cell(title, drawn, cell.size)] for cell, drawn in zip(cells, (first, second), strict=True)]
    kept = few(mutual(one, two, masks), lines=config.lines, apart=config.apart)
    told = f"{len(kept.cosine)} matches, cosine {kept.cosine.min():.3f} to {kept.cosine.max():.3f}"
    page = joined(
        (one.seen, two.seen),
        (_pixels(one, kept.first), _pixels(two, kept.second)),
        [colours[row, column].tolist() for row, column in kept.first.tolist()],
    )
    words = " · ".join(filter(None, [title, f"{one.name} - {two.name}", told]))
    return [[Cell(words, numpy.asarray(page), page.size)]]


def mutual(one: Field, two: Field, masks: Masks) -> Matches:
    """Return the patches of the masks that are each other's nearest, the most alike first."""
    forth, cosine = _nearest(one, two, masks)
    back, _ = _nearest(two, one, masks[::-1])
    same = back[forth] == torch.arange(len(forth))
    order = cosine[same].argsort(descending=True, stable=True)
    first, second = (mask.nonzero() for mask in masks)  # [patch, 2]
    return Matches(first[same][order], second[forth[same]][order], cosine[same][order])


def few(matches: Matches, *, lines: int, apart: int) -> Matches:
    """Keep the most alike of those whose ends lie within so many patches of each other, in either image."""
    kept = list[int]()
    for number in range(len(matches.cosine)):
        far = all(
            bool(((places[kept] - places[number]).abs().amax(dim=1) > apart).all())
            for places in (matches.first, matches.second)
        )
        if far:
            kept.append(number)
        if len(kept) == lines:
            break
    return Matches(matches.first[kept], matches.second[kept], matches.cosine[kept])


def painted(
    one: Field, two: Field, masks: Masks, colours: Colours, *, apart: int
) -> UInt8[numpy.ndarray, "other_rows other_columns 3"]:
    """Give every patch of the second image the colour of its nearest in the first; black without one."""
    forth, _ = _nearest(two, one, masks[::-1])
    back, _ = _nearest(one, two, masks)
    first, second = (mask.nonzero() for mask in masks)  # [patch, 2]
    agreed = (second[back[forth]] - second).abs().amax(dim=1) <= apart
    drawn = numpy.zeros((*masks[1].shape, 3), dtype=numpy.uint8)
    there, here = second[agreed].T.numpy(), first[forth[agreed]].T.numpy()
    drawn[there[0], there[1]] = colours[here[0], here[1]]
    return drawn


def places(seen: Field) -> Colours:
    """Return a colour for every place of an image."""
    rows, columns = seen.patches.shape[:2]
    down, right = numpy.linspace(0, 1, rows)[:, None, None], numpy.linspace(0, 1, columns)[None, :, None]
    (upper_left, upper_right), (lower_left, lower_right) = numpy.array(CORNERS, dtype=float)
    upper, lower = upper_left + (upper_right - upper_left) * right, lower_left + (lower_right - lower_left) * right
    found: Colours = (upper + (lower - upper) * down).round().astype(numpy.uint8)
    return found


def _masks(one: Field, two: Field, config: Config) -> Masks:
    """Return which patches take part."""
    if config.among == "all":
        return torch.ones(one.patches.shape[:2]).bool(), torch.ones(two.patches.shape[:2]).bool()
    found = foreground((one, two))
    for each in (one, two):
        if not found(each).any():
            raise UserError(f"no patch of {each.name} is foreground; give --among all")
    return found(one), found(two)


def _nearest(one: Field, other: Field, masks: Masks) -> tuple[Int64[Tensor, " patch"], Float64[Tensor, " patch"]]:
    """Return, for each patch of the first mask, which one of the second mask is most like it, and their cosine."""
    maps = other.patches.double().permute(2, 0, 1)  # [dim, rows, columns]
    size = torch.tensor(masks[1].shape).flip(0)
    centres = (masks[1].nonzero().flip(1) + 0.5) / size  # [patch, 2] as x, y
    return nearest(unit(one.patches[masks[0]]), maps, centres.double())


def _pixels(seen: Field, patches: Int64[Tensor, "match 2"]) -> Float64[numpy.ndarray, "match 2"]:
    """Return the centres of patches in what was seen, as x, y."""
    side = seen.seen.shape[1] / seen.patches.shape[0]
    return ((patches.flip(1).double() + 0.5) * side - 0.5).numpy()
