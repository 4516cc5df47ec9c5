"""The rainbows of patches: three components of the features of all images together, as red, green and blue.

    dinov2    the first component parts foreground from background, at 0; three components of the foreground of all
              images, each from its least to its largest value; the background is black (arXiv:2304.07193, figure 1)
    dinov3    three whitened components of all patches, or of the foreground that a head finds, as sigmoid(2 x)
              (arXiv:2508.10104, figures 1 and 13, and its notebook)

One decomposition for all images of a model, so that a colour means the same in each. The sign of a component is free:
here it is low at the pictures' borders, so that a background is dark and two models can be compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from dinokit.core.messages import UserError
from dinokit.dense.heads import check_model, load_head
from dinokit.looks.field import Field, Map, joint
from dinokit.models.features import Backbone, Features

FLAT = 1e-12  # a component whose variance is so small of the first does not vary: mid-grey, not amplified noise


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

    def turned(self, signs: Float64[Tensor, " component"]) -> "Axes":
        """Return the same with some directions the other way round."""
        return Axes(self.mean, self.directions * signs, self.deviations)


def draw(backbone: Backbone, fields: Sequence[Field], config: Config) -> list[list[Map]]:
    """Colour the patches of every image; return one map of each."""
    rows = joint(fields)
    masks = _found(backbone, fields, config.head) if config.head else _first(fields, rows, config.style)
    chosen = torch.cat([each.flatten() for each in masks])
    if not chosen.any():
        raise UserError("no patch is foreground in any image; give other images, or --style dinov3 without a head")
    axes = outwards(Axes.of(rows[chosen], 3), fields)
    kept = axes(rows[chosen])
    low, high = kept.amin(dim=0), kept.amax(dim=0)
    varies = axes.deviations > FLAT * axes.deviations[0].clamp(min=FLAT)
    pictures = []
    for each, mask in zip(fields, masks, strict=True):
        scores = axes(each.patches)  # [rows, columns, component]
        if config.style == "dinov2":
            shares = (scores - low) / (high - low).clamp(min=FLAT)
        else:
            shares = torch.sigmoid(2 * scores / axes.deviations.clamp(min=FLAT))
        shares = torch.where(varies, shares, 0.5).clamp(0, 1) * mask[..., None]
        pictures.append([("", (255 * shares).round().to(torch.uint8).numpy())])
    return pictures


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


def _first(fields: Sequence[Field], rows: Float[Tensor, "patch dim"], style: str) -> list[Bool[Tensor, "rows columns"]]:
    """Return the patches that the first component puts above 0; of dinov3 all."""
    if style == "dinov3":
        return [torch.ones(each.patches.shape[:2], dtype=torch.bool) for each in fields]
    axes = outwards(Axes.of(rows, 1), fields)
    return [axes(each.patches)[..., 0] > 0 for each in fields]


def _found(backbone: Backbone, fields: Sequence[Field], folder: str) -> list[Bool[Tensor, "rows columns"]]:
    """Return the patches that a head of foreground finds more likely than not."""
    head, about = load_head(folder)
    if about.task != "foreground":
        raise UserError(f"{folder} is a head of {about.task}; give one that `evaluate foreground --save` wrote")
    check_model(about, backbone, model=backbone.name)
    found = []
    for each in fields:
        rows = each.patches.flatten(0, 1)[None]  # [1, patch, dim]
        features = Features(rows[:, 0], rows[:, :0], rows, (each.patches.shape[0], each.patches.shape[1]))
        with torch.no_grad():
            found.append(head([features])[0, 0] > 0.5)
    return found
