"""Labels of a video's first frame, carried on from frame to frame by the similarity of patches; nothing is trained.

The label of a patch is a weighted mean of the labels of the patches most like it, among those of the first frame and of
the last few, not farther than a radius from its own place:

    weight_j = exp(cos_ij / temperature) over the k patches j with the largest cosine, normalised to 1

Labels stay soft on their way. Source: Jabri et al. 2020 (arXiv:2006.14613), section 3; DINO (arXiv:2104.14294),
section 4.2.2; DINOv3 (arXiv:2508.10104), appendix D.5.
"""

from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dinokit.core.bounds import above, at_least


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Which patches vote; the defaults are the base that DINOv3 varied."""

    context: int = at_least(0, 7)  # frames before this one, besides the first
    radius: int | None = at_least(0, 12)  # patches; null: the whole frame
    shape: Literal["square", "circle"] = "square"  # of the neighbourhood
    neighbours: int = at_least(1, 5)  # patches that vote, over all frames of the context together
    temperature: float = above(0, 0.2)  # of the weights; smaller trusts the nearest more


@final
class Tracker:
    """The frames that vote, and their labels: each held once, the oldest but the first overwritten by the newest."""

    def __init__(
        self, rule: Rule, features: Float[Tensor, "rows columns dim"], labels: Float[Tensor, "rows columns label"]
    ) -> None:
        """Begin with the first frame.

        Args:
            features: rows of length 1.
            labels: shares of every label in every patch.
        """
        self.rule = rule
        frames = 1 + rule.context
        self.features = features.new_empty(frames, *features.shape)
        self.labels = labels.new_empty(frames, *labels.shape)
        self.features[0], self.labels[0] = features, labels
        self.seen = 1

    def follow(self, features: Float[Tensor, "rows columns dim"]) -> Float[Tensor, "rows columns label"]:
        """Label the next frame."""
        filled = min(self.seen, len(self.features))
        labels = propagated(features, self.features[:filled], self.labels[:filled], self.rule)
        if self.rule.context:
            place = 1 + (self.seen - 1) % self.rule.context
            self.features[place], self.labels[place] = features, labels
        self.seen += 1
        return labels


def propagated(
    target: Float[Tensor, "rows columns dim"],
    context: Float[Tensor, "frame rows columns dim"],
    labels: Float[Tensor, "frame rows columns label"],
    rule: Rule,
) -> Float[Tensor, "rows columns label"]:
    """Return the labels of a frame from those of its context, tile by tile, each beside its own neighbourhood."""
    rows, columns, _ = target.shape
    out = labels.new_empty(rows, columns, labels.shape[-1])
    for top, bottom in _cuts(rows, rule):
        for left, right in _cuts(columns, rule):
            reach = max(rows, columns) if rule.radius is None else rule.radius
            near = (
                slice(max(top - reach, 0), bottom + reach),
                slice(max(left - reach, 0), right + reach),
            )
            tile = target[top:bottom, left:right].flatten(0, 1)  # [patch, dim]
            votes = context[:, near[0], near[1]].flatten(0, 2)  # [neighbour, dim]
            similarity = tile @ votes.T
            if rule.radius is not None:
                allowed = _neighbourhood((top, bottom), (left, right), near, (rows, columns), rule)
                similarity.view(len(tile), len(context), -1).masked_fill_(~allowed[:, None], -torch.inf)
            chosen = labels[:, near[0], near[1]].flatten(0, 2)  # [neighbour, label]
            out[top:bottom, left:right] = _voted(similarity, chosen, rule).view(bottom - top, right - left, -1)
    return out


def _cuts(length: int, rule: Rule) -> list[tuple[int, int]]:
    """Cut an axis into tiles of twice the radius: half of what is multiplied is within reach, memory is bounded."""
    side = 16 if rule.radius is None else max(2 * rule.radius, 8)
    return [(start, min(start + side, length)) for start in range(0, length, side)]


def _neighbourhood(
    rows: tuple[int, int], columns: tuple[int, int], near: tuple[slice, slice], size: tuple[int, int], rule: Rule
) -> Bool[Tensor, "patch neighbour"]:
    """Tell which patches of the window lie within the radius of each patch of the tile."""
    assert rule.radius is not None
    y, x = (torch.arange(*cut) for cut in (rows, columns))
    other_y, other_x = (torch.arange(length)[part] for length, part in zip(size, near, strict=True))
    dy = (y[:, None] - other_y).abs()[:, None, :, None]
    dx = (x[:, None] - other_x).abs()[None, :, None, :]
    within = torch.maximum(dy, dx) <= rule.radius
    if rule.shape == "circle":
        within = dy**2 + dx**2 <= rule.radius**2
    return within.flatten(2).flatten(0, 1)


def _voted(
    similarity: Float[Tensor, "patch neighbour"], labels: Float[Tensor, "neighbour label"], rule: Rule
) -> Float[Tensor, "patch label"]:
    count = min(rule.neighbours, similarity.shape[1])
    nearest, index = similarity.topk(min(count + 1, similarity.shape[1]), dim=1)  # one more, to see ties
    weights = (nearest[:, :count] / rule.temperature).softmax(dim=1)
    voted = torch.einsum("pk,pkl->pl", weights, labels[index[:, :count]])
    tied = (
        nearest[:, count - 1] == nearest[:, -1] if nearest.shape[1] > count else nearest.new_zeros(0, dtype=torch.bool)
    )
    if tied.any():  # all that equal the last one vote too
        rows = similarity[tied]
        rows = rows.masked_fill(rows < nearest[tied, count - 1, None], -torch.inf)
        voted[tied] = (rows / rule.temperature).softmax(dim=1) @ labels
    return voted
