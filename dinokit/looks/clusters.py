"""Patches in groups: k-means of the features of all images together, a colour per group.

Cosine similarity, greedy k-means++, moves until nothing moves; a group means the same in every image.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy
import torch

from dinokit.annotations.masks import palette
from dinokit.core.messages import UserError
from dinokit.core.numbers import at_least
from dinokit.curation.kmeans import lloyd, look
from dinokit.curation.start import start
from dinokit.curation.vectors import Vectors
from dinokit.features.embedding import unit
from dinokit.looks.field import Field, Map, Paint, joint
from dinokit.models.features import Backbone

MOVES = 100


@dataclass(frozen=True, kw_only=True)
class Config:
    """How many groups."""

    k: int = at_least(2, 6)  # groups
    seed: int = at_least(0, 0)  # of the start


def fit(backbone: Backbone, fields: Sequence[Field], config: Config) -> Paint:  # noqa: ARG001 (as all looks)
    """Return what colours the patches of an image by their group; one map of each."""
    rows = unit(joint(fields)).float()
    if config.k > len(rows):
        raise UserError(f"expected at most as many groups as patches, {len(rows):,}, got {config.k}")
    vectors = Vectors([rows.numpy()])
    first = start(vectors, config.k, key=(config.seed,), device=torch.device("cpu"))
    *_, (_, centres) = lloyd(vectors, first, iterations=MOVES)
    colours = numpy.array(palette(config.k + 1)[1:], dtype=numpy.uint8)

    def paint(seen: Field) -> list[Map]:
        own = Vectors([unit(seen.patches.flatten(0, 1)).float().numpy()])
        groups = look(own, centres, sums=False).centre
        return [("", colours[groups].reshape(*seen.patches.shape[:2], 3))]

    return paint
