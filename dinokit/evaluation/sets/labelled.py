"""Frozen features of labelled images: those that ask, those that answer, and what the two share."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from dinokit.core.messages import UserError
from dinokit.evaluation.sets.roles import doubted, opened
from dinokit.features.embedding import Read
from dinokit.features.extraction import Embeddings, extract
from dinokit.features.leaks import Leaks, leaks
from dinokit.models.features import Backbone
from dinokit.sources.base import Metric
from dinokit.sources.check import doubts, images_of_classes
from dinokit.sources.source import Source
from dinokit.sources.table import members, undecided


@dataclass(frozen=True)
class Task:
    """Images that ask (queries) and images that answer (gallery), with one set of class ids."""

    gallery: Float[Tensor, "gallery dim"]
    gallery_labels: Int64[Tensor, " gallery"]
    gallery_domains: numpy.ndarray | None
    queries: Float[Tensor, "query dim"]
    query_labels: Int64[Tensor, " query"]
    query_domains: numpy.ndarray | None
    leave_one_out: bool  # gallery and queries are the same rows; an image never answers itself
    named: Bool[Tensor, "label class"] | None = None  # classes that a label names; None: each the one
    undecided: Bool[Tensor, "label class"] | None = None  # classes that a label leaves open, where `named` is given
    metric: Metric | None = None  # what the set of the queries is measured by
    leaks: Leaks | None = None


def task(
    backbone: Backbone,
    data: str,
    *,
    gallery: str | None,
    query: str | None,
    limit: int | None = None,
    near: float | None = None,
    several: bool = False,
    described: Callable[[Source], Embeddings] | None = None,
) -> Task:
    """Extract the features of the two sides of a labelled comparison, and say, once, what makes it doubtful.

    Args:
        gallery: split that answers; None is the source's default: train, or everything where there are no splits.
        query: split that asks; the same as `gallery` means leave-one-out.
        limit: images of each side, evenly spaced in the data; None takes all.
        near: the cosine above which two pictures are one; None: only equal ones are.
        several: whether an image may have several classes.
        described: computes the features of a source; None: CLS.
    """
    sources = {split: opened(backbone, data, split=split, limit=limit) for split in (gallery, query)}
    left, right = sources[gallery], sources[query]
    assert left.labels is not None
    assert right.labels is not None
    lists = members(left.classes)
    if lists is not None and not several:
        raise UserError(
            f"images of {data} have several classes, such as {left.classes[0]}; only knn, logreg and linear measure "
            "that"
        )
    named = None if lists is None else lists[1]
    wanted, known = (images_of_classes(each)[1] for each in (right, left))
    if not ((wanted > 0) & (known > 0)).any():
        asks, answers = right.classes[right.labels[0]], left.classes[left.labels[0]]
        raise UserError(
            f"no class of {query} is one of {gallery} in {data} (such as '{asks}' and '{answers}'), so that no answer "
            "can be right; name the class folders alike"
        )
    if gallery == query and wanted.max() < 2:
        raise UserError(
            f"expected two or more images of a class in {data}, got one of each, so that no answer can be right; add "
            "images, or a split that asks"
        )
    doubted(data, doubts(right, left))
    describe = described or partial(extract, backbone)
    found = {split: checked(source, describe(source)) for split, source in sources.items()}
    answering, asking = found[gallery], found[query]
    leaking = leaked(data, asking, answering, above=near, names=(str(query or data), str(gallery or data)))
    return Task(
        gallery=torch.from_numpy(answering.vectors),
        gallery_labels=torch.from_numpy(answering.labels),
        gallery_domains=answering.domains,
        queries=torch.from_numpy(asking.vectors),
        query_labels=torch.from_numpy(asking.labels),
        query_domains=asking.domains,
        leave_one_out=gallery == query,
        named=None if named is None else torch.from_numpy(named),
        undecided=None if named is None else torch.from_numpy(undecided(left.classes)),
        metric=right.metric,
        leaks=leaking,
    )


def leaked(
    data: str,
    asks: Embeddings,
    *answers: Embeddings,
    above: float | None = None,
    names: tuple[str, str] = ("test", "train or what chooses"),
) -> Leaks:
    """Find the pictures that parts of some data share, see `leaks`, and say them once.

    Args:
        answers: what is learnt, and what chooses, which is learnt from, too.
        names: of what is asked, and of the answers.
    """
    found = leaks(asks, *answers, above=above)
    if len(found):
        doubted(data, [found.line(*names)])
    return found


def embedded(backbone: Backbone, source: Source, *, reading: Read | None = None) -> Embeddings:
    """Extract the features of labelled images; every class keeps some."""
    return checked(source, extract(backbone, source, reading=reading))


def checked(source: Source, found: Embeddings) -> Embeddings:
    """Return the features of labelled images; UserError if a class has lost all of them."""
    assert source.labels is not None
    lost = numpy.setdiff1d(source.labels, source.labels[found.indices]).tolist()
    if lost and members(source.classes) is None:
        raise UserError(
            f"no image of class '{source.classes[lost[0]]}' in {source.name} can be read, so that a number would say "
            f"nothing; repair them or move the class away; the first bad image: {found.bad[0].key}: "
            f"{found.bad[0].reason}"
        )
    say_bad(source, found)
    return found


def say_bad(source: Source, found: Embeddings) -> None:
    """Say, once, how many images cannot be read."""
    if found.bad:
        bad, more = found.bad[0], "; ..." * (len(found.bad) > 1)
        doubted(
            source.name,
            [f"images that cannot be read and do not count, {len(found.bad):,}: {bad.key}: {bad.reason}{more}"],
        )
