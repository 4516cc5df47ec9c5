"""The rainbows of patches: three components of the features of all images together, as red, green and blue.

    dinov2    the first component parts foreground from background, at 0; three components of the foreground of all
              images, each from its least to its largest value; the background is black (arXiv:2304.07193, figure 1)
    dinov3    three whitened components of all patches, or of the foreground that a head finds, as sigmoid(2 x)
              (arXiv:2508.10104, figures 1 and 13, and its notebook)

One decomposition for all images of a model, so that a colour means the same in each. The sign of a component is free:
here it is low at the pictures' borders, so that a background is dark and two models can be compared.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy
import torch
from jaxtyping import Bool, Float, Float64, UInt8
from torch import Tensor

from dinokit.core.messages import UserError
from dinokit.dense.heads import check_model, load_head
from dinokit.looks.field import Field, Map, Paint, joint
from dinokit.models.features import Backbone, Features

Rule = Callable[[Field], Bool[Tensor, "rows columns"]]  # which patches are coloured

FLAT = 1e-6  # a component whose deviation is so small of the first does not vary: mid-grey, not amplified noise; of
# float32 features of two components the third is rounding, 1e-7 of the first
TINY = 1e-12


@dataclass(frozen=True, kw_only=True)
class Config:
    """How patches are coloured."""

    style: Literal["dinov2", "dinov3"] = "dinov3"  # of whose figures
    head: str | None = (
        None  # of `evaluate foreground --save`, which says what is coloured; null: dinov2 finds it itself
    )


@dataclass(frozen=True)
class Axes:
    """Directions of the largest variance of some rows."""

    mean: Float64[Tensor, " dim"]
    directions: Float64[Tensor, "dim component"]  # of length 1
    deviations: Float64[Tensor, " component"]  # of the rows along them

    @staticmethod
    def of(rows: Float[Tensor, "row dim"], count: int) -> "Axes":
        """Find them, in order; missing ones are zero. float64, by the covariance: exact, without a random start."""
        mean = rows.double().mean(dim=0)
        centred = rows.double() - mean
        values, vectors = torch.linalg.eigh(centred.T @ centred / max(len(rows), 1))
        count_there = min(count, len(values))
        directions = torch.zeros(rows.shape[1], count, dtype=torch.float64)
        deviations = torch.zeros(count, dtype=torch.float64)
        directions[:, :count_there] = vectors.flip(-1)[:, :count_there]
        deviations[:count_there] = values.flip(-1)[:count_there].clamp(min=0).sqrt()
        return Axes(mean, directions, deviations)

    def __call__(self, rows: Float[Tensor, "*batch dim"]) -> Float64[Tensor, "*batch component"]:
        """Return where rows lie along them."""
        return (rows.double() - self.mean) @ self.directions

    @property
    def varies(self) -> Bool[Tensor, " component"]:
        """Tell which directions vary: along others lies rounding alone."""
        return self.deviations > FLAT * self.deviations[0].clamp(min=TINY)

    def whitened(self, rows: Float[Tensor, "*batch dim"]) -> Float64[Tensor, "*batch component"]:
        """Return where rows lie in deviations from the mean; 0 along what does not vary."""
        return torch.where(self.varies, self(rows) / self.deviations.clamp(min=TINY), 0.0)

    def turned(self, signs: Float64[Tensor, " component"]) -> "Axes":
        """Return the same with some directions the other way round."""
        return Axes(self.mean, self.directions * signs, self.deviations)


def fit(backbone: Backbone, fields: Sequence[Field], config: Config) -> Paint:
    """Return what colours the patches of an image, be it one of these or another; one map of each."""
    shown = _rule(backbone, fields, config)
    rows = joint(fields)
    chosen = rows[torch.cat([shown(each).flatten() for each in fields])]
    if not len(chosen):
        raise UserError("no patch is foreground in any image; give other images, or --style dinov3 without a head")
    axes = outwards(Axes.of(chosen, 3), fields)
    low, high = axes(chosen).amin(dim=0), axes(chosen).amax(dim=0)

    def paint(seen: Field) -> list[Map]:
        if config.style == "dinov2":
            shares = (axes(seen.patches) - low) / (high - low).clamp(min=TINY)  # [rows, columns, component]
            shares = torch.where(axes.varies, shares, 0.5)
        else:
            shares = torch.sigmoid(2 * axes.whitened(seen.patches))
        return [("", coloured(shares * shown(seen)[..., None]))]

    return paint


def coloured(shares: Float64[Tensor, "rows columns 3"]) -> UInt8[numpy.ndarray, "rows columns 3"]:
    """Return shares of three components as red, green and blue."""
    return (255 * shares.clamp(0, 1)).round().to(torch.uint8).numpy()


def outwards(axes: Axes, fields: Sequence[Field]) -> Axes:
    """Turn each direction so that the borders of the images come on its low side."""
    inside, outside = [], []
    for each in fields:
        border = torch.ones(each.patches.shape[:2], dtype=torch.bool)
        border[1:-1, 1:-1] = False
        scores = axes(each.patches)
        outside.append(scores[border])
        inside.append(scores[~border])
    middle, around = torch.cat(inside), torch.cat(outside)
    # where there is no inside, the skew decides
    towards = middle.mean(dim=0) - around.mean(dim=0) if len(middle) else (around**3).mean(dim=0)
    return axes.turned(torch.where(towards < 0, -1.0, 1.0).double())


def foreground(fields: Sequence[Field]) -> Rule:
    """Return what finds the patches that the first component of all images puts above 0."""
    axes = outwards(Axes.of(joint(fields), 1), fields)
    return lambda seen: axes(seen.patches)[..., 0] > 0


def _rule(backbone: Backbone, fields: Sequence[Field], config: Config) -> Rule:
    """Return what finds the patches that are coloured; without a head dinov3 colours all."""
    if config.head is not None:
        return _by_head(backbone, config.head)
    if config.style == "dinov2":
        return foreground(fields)
    return lambda seen: torch.ones(seen.patches.shape[:2], dtype=torch.bool)


def _by_head(backbone: Backbone, folder: str) -> Rule:
    """Return what finds the patches that a head of foreground finds more likely than not."""
    head, about = load_head(folder)
    if about.task != "foreground":
        raise UserError(f"{folder} is a head of {about.task}; give one that `evaluate foreground --save` wrote")
    check_model(about, backbone, model=backbone.name)

    def found(seen: Field) -> Bool[Tensor, "rows columns"]:
        rows = seen.patches.flatten(0, 1)[None]  # [1, patch, dim]
        features = Features(rows[:, 0], rows[:, :0], rows, (seen.patches.shape[0], seen.patches.shape[1]))
        with torch.no_grad():
            return torch.gt(head([features])[0, 0], 0.5)

    return found
