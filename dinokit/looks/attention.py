"""Where the class token looks: the attention of a block from CLS to every patch, of each head and their mean.

Source: the figures of DINO (arXiv:2104.14294), the last block of a ViT at 480 pixels. `mass` shows the threshold of the
paper: of each head the fewest patches that have so much of the attention together.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from dinokit.core.messages import UserError
from dinokit.core.numbers import at_least, between
from dinokit.dense.draw import heat
from dinokit.dense.maps import frozen
from dinokit.images.intensity import normalised, to_unit
from dinokit.looks.field import Field, Map, Paint
from dinokit.models.features import Backbone
from dinokit.models.vit import VisionTransformer

MOST = 4096  # patches: attention of all with all is held at once


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which attention."""

    block: int | None = at_least(0, None)  # from 0; null: the last
    mass: float | None = between(0, 1, None)  # share of the attention that is kept; null: all of it, in colours


def fit(backbone: Backbone, _: Sequence[Field], config: Config) -> Paint:
    """Return what draws where the class token of an image looks: the mean over the heads, then each head."""
    if not isinstance(backbone, VisionTransformer):
        raise UserError("attention can be shown of our own transformers alone, not of other libraries' or other kinds")
    block = backbone.config.depth - 1 if config.block is None else config.block
    return lambda seen: _drawn(from_cls(backbone, seen, block), config.mass)


def from_cls(backbone: VisionTransformer, seen: Field, block: int) -> Float32[Tensor, "head rows columns"]:
    """Return the attention of a block from CLS to every patch of an image, or raise UserError if it has too many."""
    check(seen)
    rows, columns, _ = seen.patches.shape
    with frozen(backbone) as device:
        found = backbone.attention(normalised(to_unit(seen.seen[None]).to(device), backbone.pixels), block)
    return torch.unflatten(found[0, :, 0, -rows * columns :].float().cpu(), 1, (rows, columns))


def check(seen: Field) -> None:
    """Raise UserError if an image has too many patches; its features need not be there."""
    rows, columns, _ = seen.patches.shape
    if rows * columns > MOST:
        raise UserError(f"{seen.name} has {rows * columns:,} patches, attention takes {MOST:,}; give a smaller --size")


def largest(attention: Float[Tensor, "head rows columns"], mass: float) -> Float[Tensor, "head rows columns"]:
    """Keep of each head the fewest patches that have a share of its attention, the others are 0."""
    flat = attention.flatten(1)
    values, order = flat.sort(dim=1)  # the least first
    kept = (values / values.sum(dim=1, keepdim=True)).cumsum(dim=1) > 1 - mass
    return torch.where(kept.gather(1, order.argsort(dim=1)), flat, 0).reshape(attention.shape)


def _drawn(attention: Float[Tensor, "head rows columns"], mass: float | None) -> list[Map]:
    shown = attention if mass is None else largest(attention, mass)
    every = {"mean": shown.mean(dim=0)} | {f"head {number}": each for number, each in enumerate(shown)}
    return [(name, heat((each / each.max().clamp(min=1e-12)).numpy())) for name, each in every.items()]
