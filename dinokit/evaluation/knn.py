"""Weighted k-nearest-neighbour classification: how good are the features with nothing trained on top?

Every test image takes the labels of its k most similar training images (cosine of the CLS features), each weighted by
exp(similarity / temperature); the class with the largest sum wins. Source: Wu et al. 2018 (arXiv:1805.01978), with the
temperature and the values of k of DINO (arXiv:2104.14294, section 4.1).
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dinokit.core.numbers import above, at_least
from dinokit.dense.embedding import nearest
from dinokit.evaluation.base import Found, sides, task
from dinokit.models.features import Backbone

UNITS = {"top1": "%", "top5": "%"}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which images, and how they vote."""

    data: str  # a folder with one folder per class, or a demo: name
    gallery: str | None = None  # split that answers; null: train (the same split as `query`: leave-one-out)
    query: str | None = None  # split that asks; null: val, or else test
    k: tuple[int, ...] = at_least(1, (10, 20, 100, 200))  # neighbours; more than the gallery has: all of it
    limit: int | None = at_least(2, None)  # images of each side, evenly spaced in the data; null: all
    temperature: float = above(0, 0.07)  # of the weights exp(similarity / temperature); smaller trusts the nearest more


def run(backbone: Backbone, config: Config, _: Path | None) -> Found:
    """Classify every query image; return `top1@k` and `top5@k` in percent, and how many images took part."""
    gallery, query = sides(config.data, config.gallery, config.query)
    images = task(backbone, config.data, gallery=gallery, query=query, limit=config.limit)
    answers = len(images.gallery) - images.leave_one_out
    ks = sorted(set(config.k))
    classes = int(torch.cat([images.gallery_labels, images.query_labels]).max()) + 1
    right = {f"top{n}@{k}": 0 for k in ks for n in (1, 5)}
    for part, found in images.compared():
        similarity, neighbours = nearest(found, min(max(ks), answers))  # [query, neighbour], nearest first
        votes = vote(similarity, images.gallery_labels[neighbours], ks, classes=classes, temperature=config.temperature)
        for k, scores in votes.items():
            best = scores.sort(dim=1, descending=True, stable=True)
            # a class without a vote is no answer, wherever the sort puts it
            ranked = ((best.indices == images.query_labels[part, None]) & (best.values > 0))[:, :5]  # [query, rank]
            right[f"top1@{k}"] += int(ranked[:, 0].sum())
            right[f"top5@{k}"] += int(ranked.any(dim=1).sum())
    result = {name: 100 * count / len(images.queries) for name, count in right.items()}
    return result | {"queries": float(len(images.queries)), "gallery": float(answers)}, {}


def vote(
    similarity: Float[Tensor, "query neighbour"],
    labels: Int64[Tensor, "query neighbour"],
    ks: list[int],
    *,
    classes: int,
    temperature: float,
) -> dict[int, Float[Tensor, "query class"]]:
    """Sum the weights of the k nearest neighbours by class, for every k, up to one factor per query.

    Args:
        similarity: cosines, nearest first.
        labels: class of each of these neighbours.
        ks: numbers of neighbours, ascending; one above the number of columns takes all of them.
    """
    # relative to the nearest: exp(1 / temperature) overflows at small temperatures, and a common factor decides nothing
    weights = ((similarity - similarity[:, :1]) / temperature).exp()
    scores = similarity.new_zeros(len(similarity), classes)
    votes: dict[int, Float[Tensor, "query class"]] = {}
    done = 0
    for k in ks:
        scores = scores.scatter_add(1, labels[:, done:k], weights[:, done:k])  # a new tensor: votes of smaller k stay
        votes[k] = scores
        done = k
    return votes
