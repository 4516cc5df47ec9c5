"""Weighted k-nearest-neighbour classification: how good are the features with nothing trained on top?

Every test image takes the labels of its k most similar training images (cosine of the CLS features), each weighted by
exp(similarity / temperature); the class with the largest sum wins. Source: Wu et al. 2018 (arXiv:1805.01978), with the
temperature and the values of k of DINO (arXiv:2104.14294, section 4.1). One search finds the neighbours for every k,
exactly, and of equal ones the first.

Few-shot, so many images of each class answer, drawn several times. Where images have several classes, a neighbour
votes for all of its own, by its share of the votes of the most neighbours that are asked for (as in DINOv2,
arXiv:2304.07193), and the measure is the 11-point mAP.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from dinokit.core.messages import UserError
from dinokit.core.numbers import above, at_least, between
from dinokit.curation import neighbours
from dinokit.curation.neighbours import Edges, Ordered, Search, places_of
from dinokit.curation.vectors import Vectors
from dinokit.evaluation.base import Found
from dinokit.evaluation.sets.labelled import Task, task
from dinokit.evaluation.sets.roles import FewShot, sides
from dinokit.features.compare import CHUNK
from dinokit.features.embedding import unit
from dinokit.metrics.interval import per_class_shares, percent
from dinokit.metrics.precision import mean_precision, mean_precision_interval
from dinokit.models.features import Backbone

UNITS = {"top1": "%", "top5": "%", "per-class": "%", "mAP": "%", "best": "%"}
SAMPLE = 4096  # images whose mean is near all

Scores = dict[str, float]
Right = dict[str, Float64[numpy.ndarray, "query ..."]]  # by number: 1 or 0 of each query, for mAP scores of classes


@dataclass(frozen=True, kw_only=True)
class Config(FewShot):
    """Which images, and how they vote."""

    data: str  # a folder with one folder per class, or a demo: name
    gallery: str | None = None  # split that answers; null: train (the same split as `query`: leave-one-out)
    query: str | None = None  # split that asks; null: val, or else test; of a published set test first
    k: tuple[int, ...] = at_least(1, (10, 20, 100, 200))  # neighbours; more than the gallery has: all of it
    limit: int | None = at_least(2, None)  # images of each side, evenly spaced in the data; null: all
    temperature: float = above(0, 0.07)  # of the weights exp(similarity / temperature); smaller trusts the nearest more
    metric: Literal["top1", "per-class"] | None = (
        None  # right of all images, or as a mean over classes; null: the set's
    )
    near: float | None = between(-1, 1, None)  # cosine above which two pictures are one, said as leakage; null: equal


def run(backbone: Backbone, config: Config, _: Path | None) -> Found:
    """Classify every query image; return `top1@k` and `top5@k` in percent, the best k, and how many images took part.

    Few-shot, means over the draws, with their standard deviation as `top1@k/std`. Of a set that is measured as a mean
    over the classes, `per-class@k` in place of `top1@k`. With several classes per image `mAP@k` alone.
    """
    gallery, query = sides(config.data, config.gallery, config.query)
    images = task(
        backbone, config.data, gallery=gallery, query=query, limit=config.limit, near=config.near, several=True
    )
    images = replace(images, metric=config.metric or images.metric)
    if config.metric is not None and images.named is not None:
        raise UserError(f"images of {config.data} have several classes, which mAP judges; leave metric out")
    measured = partial(_measured, images, sorted(set(config.k)), config.temperature, backbone.device)
    details = images.leaks.details() if images.leaks else {}
    if config.shots is None:
        answers = len(images.gallery) - images.leave_one_out
        result, found = measured(None)
        right = {name: [values] for name, values in found.items()}
    else:
        drawn = config.drawn(images.gallery_labels)
        answers, draws = len(drawn[0]), [measured(rows) for rows in drawn]
        each = [scores for scores, _ in draws]
        right = {name: [found[name] for _, found in draws] for name in draws[0][1]}
        result = {name: float(numpy.mean([scores[name] for scores in each])) for name in each[0]}
        result |= {f"{name}/std": float(numpy.std([scores[name] for scores in each])) for name in each[0]}
        details["draws"] = each
    first = [name for name in result if name.startswith(("top1@", "per-class@", "mAP@")) and not name.endswith("/std")]
    best = max(first, key=lambda name: result[name])
    result |= {"best": result[best], "best_k": float(best.split("@")[1])}
    ends = {name: _interval(images, each) for name, each in right.items()}
    details["intervals"] = ends | {"best": ends[best]}
    if images.leaks:
        result["leaks"] = float(len(images.leaks))
    return result | {"queries": float(len(images.queries)), "gallery": float(answers)}, details


def _measured(
    images: Task,
    ks: list[int],
    temperature: float,
    device: torch.device,
    rows: Int64[numpy.ndarray, " drawn"] | None,
) -> tuple[Scores, Right]:
    """Let some images of the gallery answer, or all, and judge what they say, for every k."""
    classes = int(torch.cat([images.gallery_labels, images.query_labels]).max()) + 1
    right = {f"top{n}@{k}": numpy.zeros(len(images.queries)) for k in ks for n in (1, 5)}
    shares: dict[int, list[Tensor]] = {k: [] for k in ks}
    step = max(1, CHUNK // max(classes, ks[-1]))  # queries at a time
    for part, similarity, others in nearest(images, ks[-1], rows, step=step, device=device):
        votes = vote(similarity, images.gallery_labels[others], ks, classes=classes, temperature=temperature)
        if images.named is not None:
            total = votes[ks[-1]].sum(dim=1, keepdim=True)
            for k, scores in votes.items():
                shares[k].append(scores / total @ images.named[:classes].double())  # [query, class]
            continue
        for k, scores in votes.items():
            best = scores.sort(dim=1, descending=True, stable=True)
            # a class without a vote is no answer, wherever the sort puts it
            ranked = ((best.indices == images.query_labels[part, None]) & (best.values > 0))[:, :5]  # [query, rank]
            right[f"top1@{k}"][part] = ranked[:, 0]
            right[f"top5@{k}"][part] = ranked.any(dim=1)
    if images.named is None:
        if images.metric == "per-class":
            truth = images.query_labels.numpy()
            each = {f"per-class@{k}": per_class_shares(truth, right.pop(f"top1@{k}") > 0) for k in ks}
            right = each | right  # what the set is measured by first
        return {name: 100 * float(values.sum()) / len(values) for name, values in right.items()}, right
    assert images.undecided is not None
    asked, left_open = images.named[images.query_labels].numpy(), images.undecided[images.query_labels].numpy()
    found = {f"mAP@{k}": torch.cat(scores).numpy() for k, scores in shares.items()}
    return {name: 100 * mean_precision(asked, each, left_out=left_open) for name, each in found.items()}, found


def _interval(images: Task, each: list[Float64[numpy.ndarray, "query ..."]]) -> list[float]:
    """Return the ends of the interval of a number in percent, as a mean over draws."""
    if images.named is None or images.undecided is None:
        return percent(numpy.mean(each, axis=0))
    asked, left_open = images.named[images.query_labels].numpy(), images.undecided[images.query_labels].numpy()
    return [100 * end for end in mean_precision_interval(asked, each, left_out=left_open)]


def nearest(
    images: Task, k: int, rows: Int64[numpy.ndarray, " drawn"] | None, *, step: int, device: torch.device
) -> Iterator[tuple[slice, Float64[Tensor, "query k"], Int64[Tensor, "query k"]]]:
    """Yield some queries, the cosines of their k nearest in the gallery, nearest first, and where these are.

    Args:
        rows: of the gallery that may answer; None: all. If a query has fewer than k, -inf fills up.
        step: queries, at most.
        device: where products are taken; the answer is the same wherever.
    """
    vectors = Vectors([images.gallery.numpy()])
    answers = Ordered.single(vectors, rows)
    asks = Ordered.single(vectors if images.leave_one_out else Vectors([images.queries.numpy()]))
    middle = unit(images.gallery[:: max(len(images.gallery) // SAMPLE, 1)]).mean(dim=0).numpy()
    count = min(k, len(answers.rows) - (images.leave_one_out and rows is None))
    search = Search(asks, answers, k=count + images.leave_one_out, middle=middle, device=device)
    for number in range(len(search)):
        edges = search.block(number)
        if images.leave_one_out:
            edges = edges.some(edges.rows != edges.others)
        block = slice(number * neighbours.QUERIES, min((number + 1) * neighbours.QUERIES, len(asks.rows)))
        similarity, others = _filled(edges, block, count)
        for start in range(0, len(others), step):
            part = slice(start, min(start + step, len(others)))
            yield slice(block.start + part.start, block.start + part.stop), similarity[part], others[part]


def _filled(
    edges: Edges, block: slice, count: int
) -> tuple[Float64[Tensor, "query count"], Int64[Tensor, "query count"]]:
    """Return the pairs of a block of queries as rows of equal length."""
    place = places_of(edges.rows)
    edges, place = edges.some(place < count), place[place < count]
    similarity = torch.full((block.stop - block.start, count), -torch.inf, dtype=torch.float64)
    others = torch.zeros(similarity.shape, dtype=torch.int64)
    where = torch.from_numpy(edges.rows - block.start), torch.from_numpy(place)
    similarity[where] = torch.from_numpy(edges.similarity)
    others[where] = torch.from_numpy(edges.others)
    return similarity, others


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
