"""How alike is every patch to a marked one, in the same image and in others: maps of cosines.

Source: the figures of DINOv3 (arXiv:2508.10104) in which a patch is marked in red. Cosines are coloured from the least
to the largest of all maps of a mark, or from `low` to 1, so that maps of several models can be compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float64
from torch import Tensor

from dinokit.core.messages import UserError
from dinokit.core.numbers import between
from dinokit.dense.draw import heat
from dinokit.features.embedding import unit
from dinokit.looks.field import Field, Map
from dinokit.models.features import Backbone

MARK = (0, 160, 255)  # a colour that the map has not
FLAT = 1e-9  # of a range of cosines


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is marked, and how cosines are coloured."""

    at: tuple[tuple[float, float], ...]  # pixels x,y of the first image as it lies there
    low: float | None = between(-1, 1, None)  # cosine of the darkest colour, 1 of the brightest; null: of these maps


def draw(_: Backbone, fields: Sequence[Field], config: Config) -> list[list[Map]]:
    """Draw the cosines of every image with every mark; return a map per mark of each."""
    if not config.at:
        raise UserError("nothing is marked; give --at X,Y, in pixels of the first image")
    pictures: list[list[Map]] = [[] for _ in fields]
    for x, y in config.at:
        row, column = fields[0].at(x, y)
        maps = cosines(fields, row, column)
        low, high = min(float(each.min()) for each in maps), max(float(each.max()) for each in maps)
        low, high = (low, high) if config.low is None else (config.low, 1.0)
        for number, each in enumerate(maps):
            drawn = heat(((each - low) / max(high - low, FLAT)).clamp(0, 1).numpy())
            if number == 0:
                drawn[row, column] = MARK
            pictures[number].append((f"cosine with {x:g},{y:g}: {low:.2f} to {high:.2f}", drawn))
    return pictures


def cosines(fields: Sequence[Field], row: int, column: int) -> list[Float64[Tensor, "rows columns"]]:
    """Return the cosine of every patch of every image with a patch of the first."""
    marked = unit(fields[0].patches[row, column][None])[0]
    return [(unit(each.patches.flatten(0, 1)) @ marked).reshape(each.patches.shape[:2]) for each in fields]
