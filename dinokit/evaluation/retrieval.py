"""Instance retrieval: does an image find the other pictures of the same thing?

Images are ranked by the cosine of their CLS features; those with the query's label are the right answers. Data with
domains (demo:emoji: two drawing styles) is asked across them: the images of one search those of another, for every
ordered pair, as AmsterTime is evaluated in DINOv3 (arXiv:2508.10104, appendix D.8). Without domains every other image
is seen. The average precision is the plain one: the mean, over the right answers, of the precision at the rank of each;
with a single right answer it is 1 / rank. (Revisited Oxford and Paris use a trapezoid form, another number.)
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy
import torch
from jaxtyping import Float
from torch import Tensor

from dinokit.core.messages import UserError
from dinokit.evaluation.base import Found, Task, task
from dinokit.metrics.interval import percent
from dinokit.metrics.precision import average_precision
from dinokit.models.features import Backbone

UNITS = {"mAP": "%", "R": "%"}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which images are searched."""

    data: str  # a folder with one folder per thing, or a demo: name
    split: str | None = None  # null: train, or everything where there are no splits


def run(backbone: Backbone, config: Config, _: Path | None) -> Found:
    """Search with every image; return `mAP` and `R@1` (the first result is right) in percent, and the query count.

    With domains, also `mAP/A-B` and `R@1/A-B` for queries of domain A among images of domain B. A query without any
    right answer is not counted.
    """
    images = task(backbone, config.data, gallery=config.split, query=config.split)
    result: dict[str, float] = {}
    precisions, firsts = [], []
    for name, direction in _directions(images):
        precision, first = search(direction)
        if name and len(precision):
            result |= {f"mAP/{name}": 100 * precision.mean().item(), f"R@1/{name}": 100 * first.mean().item()}
        precisions.append(precision)
        firsts.append(first)
    precision, first = torch.cat(precisions), torch.cat(firsts)
    if not len(precision):
        raise UserError(
            f"expected two or more images of a thing in {config.data}, got one of each; retrieval needs pairs"
        )
    result = {"mAP": 100 * precision.mean().item(), "R@1": 100 * first.mean().item()} | result
    details = {"intervals": {"mAP": percent(precision.numpy()), "R@1": percent(first.numpy())}}
    return result | {
        "queries": float(len(precision)),
        "gallery": float(len(images.gallery)),
    }, details | (images.leaks.details() if images.leaks else {})


def search(images: Task) -> tuple[Float[Tensor, " query"], Float[Tensor, " query"]]:
    """Return the average precision, and 1 or 0 for the first result, of every query that has a right answer.

    Equal similarities are one threshold of the precision; of several first results the first image counts.
    """
    precisions, firsts = [], []
    for part, found in images.compared():
        relevant = images.gallery_labels == images.query_labels[part, None]
        seen = found > -torch.inf  # under leave-one-out, all but the image itself
        for similarity, right, there in zip(found.numpy(), (relevant & seen).numpy(), seen.numpy()):
            if right.any():
                precisions.append(average_precision(right[there], similarity[there]))
                firsts.append(float(right[similarity.argmax()]))
    return torch.tensor(precisions), torch.tensor(firsts)


def _directions(images: Task) -> Iterator[tuple[str, Task]]:
    """Yield (name, task) for every ordered pair of domains; one nameless task without domains."""
    if images.gallery_domains is None or images.query_domains is None or len(set(images.gallery_domains.tolist())) < 2:
        yield "", images
        return
    domains = sorted(set(images.gallery_domains.tolist()))
    for asking in domains:
        for answering in domains:
            if asking != answering:
                yield f"{asking}-{answering}", _between(images, asking, answering)


def _between(images: Task, asking: object, answering: object) -> Task:
    assert images.gallery_domains is not None
    assert images.query_domains is not None
    left = torch.from_numpy(numpy.flatnonzero(images.gallery_domains == answering))
    right = torch.from_numpy(numpy.flatnonzero(images.query_domains == asking))
    return replace(
        images,
        gallery=images.gallery[left],
        gallery_labels=images.gallery_labels[left],
        gallery_domains=None,
        queries=images.queries[right],
        query_labels=images.query_labels[right],
        query_domains=None,
        leave_one_out=False,
    )
