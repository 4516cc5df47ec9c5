"""Instance retrieval: does an image find the other pictures of the same thing?

Images are ranked by the cosine of their descriptors, CLS if nothing else is said. A published set is asked as its paper
or DINOv3 (arXiv:2508.10104, appendix D.8) does:

- Revisited Oxford and Paris: whole images, padded to a square of 224 pixels; queries are not cut to their boxes. Right
  are the easy and the hard images (medium), the hard ones, or the easy ones; what is in neither list is wrong and what
  does not count is as good as away. The average precision is the area by trapezoids.
- Met: whole images of 512 pixels. The nearest training images classify, whitened by PCA to 512 numbers; how confident
  an answer is depends on two settings that are chosen for the best GAP on the validation images.
- AmsterTime: both directions, the plain average precision, which of a single right answer is 1 / rank.
- Copydays: copies search their original, by CLS and GeM of the patches, on squashed images of 224 pixels, or 320 with
  patches of 8; the strong attacks first. `distractors` are 10,000 photos of YFCC100M in DINO, `whiten` 20,000 others.

In any other labelled data, those with the query's label are the right answers. Data with domains (demo:emoji: two
drawing styles) is asked across them: the images of one search those of another, for every ordered pair. Without domains
every other image is seen. The average precision is the plain one: the mean, over the right answers, of the precision at
the rank of each.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy
import torch
from jaxtyping import Float
from torch import Tensor

from dinokit.core.messages import UserError
from dinokit.core.numbers import at_least, between
from dinokit.evaluation.base import Found
from dinokit.evaluation.sets import copydays, landmarks, met
from dinokit.evaluation.sets.labelled import Task, say_bad, task
from dinokit.evaluation.sets.roles import doubted
from dinokit.features.compare import compared
from dinokit.features.descriptors import Descriptor
from dinokit.features.extraction import Embeddings
from dinokit.features.whitening import Whitening
from dinokit.images.intensity import LARGEST
from dinokit.images.transforms import Inner, Padded, Square, Squashed, Transform, Whole
from dinokit.metrics.interval import percent
from dinokit.metrics.precision import average_precision
from dinokit.models.classifier import Reading
from dinokit.models.features import Backbone
from dinokit.models.gem import WithGem
from dinokit.models.pixels import RawPixels
from dinokit.sources.location import prefix
from dinokit.sources.published import place_of
from dinokit.sources.source import Source, open_source

UNITS = {"mAP": "%", "R": "%", "mP": "%", "GAP": "%", "GAP-": "%", "ACC": "%", "val": "%"}
WAYS: dict[str, type[Transform]] = {
    "square": Square,
    "inner": Inner,
    "padded": Padded,
    "squashed": Squashed,
    "whole": Whole,
}


@dataclass(frozen=True)
class Shown:
    """How the images of a set are shown to a model, and what is read of them."""

    fit: str
    size: Callable[[int], int | None]  # patch size -> pixels
    gem: float = 0.0


SETS = {
    "roxford5k": Shown("padded", lambda _: 224),
    "rparis6k": Shown("padded", lambda _: 224),
    "met": Shown("whole", lambda patch: 508 if 512 % patch else 512),
    "met-mini": Shown("whole", lambda patch: 508 if 512 % patch else 512),
    "amstertime": Shown("inner", lambda _: 224),
    "copydays": Shown("squashed", lambda patch: 320 if patch == 8 else 224, 4.0),
}


METS = ("met", "met-mini")
WHO_ASKS = (*METS, "roxford5k", "rparis6k", "copydays")  # sets that say which images ask


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which images are searched, and how they are described."""

    data: str  # a folder with one folder per thing, a demo: name, or roxford5k: rparis6k: met: amstertime: copydays:
    split: str | None = None  # null: train, or everything where there are no splits; not of sets that say who asks
    distractors: str | None = None  # more images to search in, never right
    fit: Literal["square", "inner", "padded", "squashed", "whole"] | None = None  # null: as published, else square
    size: int | None = between(
        1, LARGEST, None
    )  # pixels of the side, of `whole` the long one; null: as published, the model's
    scales: tuple[float, ...] = between(0, 16, (1.0,), without=0)  # of the size, over which vectors are averaged
    gem: float | None = at_least(0, None)  # power of the mean of patches behind CLS; 0: CLS alone; null: as published
    whiten: str | None = None  # images that PCA whitening is learnt on; null: none, of Met its training images
    dims: int | None = at_least(1, None)  # numbers that whitening keeps; null: all, of Met 512

    def __post_init__(self) -> None:
        """Refuse what would do nothing."""
        name = _name_of(self.data)
        if name in WHO_ASKS and self.split is not None:
            raise UserError(f"{name} says itself which images ask; leave split out")
        if name in METS and (self.whiten or self.distractors):
            raise UserError(f"{name} has images to whiten with, and distractors, of its own; leave both options out")
        if self.dims is not None and not self.whiten and name not in METS:
            raise UserError(f"dims ({self.dims}) are those that whitening keeps; give whiten, or leave dims out")


def run(backbone: Backbone, config: Config, _: Path | None) -> Found:
    """Search with every image that asks; return, in percent, what its set is measured by, and the query count.

    Of labelled data, also published: `mAP` and `R@1` (the first result is right), with domains also `mAP/A-B` and
    `R@1/A-B` for queries of domain A among images of domain B; a query without any right answer is not counted. Of
    Oxford and Paris `mAP/medium` and others, of Copydays `mAP/strong` and others, of Met GAP, GAP- and ACC.
    """
    describe, name = described(backbone, config), _name_of(config.data)

    def opened(source: str, split: str | None = None) -> Source:
        return open_source(source, split=split, channels=backbone.channels, white=backbone.pixels.white)

    def found(source: Source) -> Embeddings:
        result = describe(source)
        say_bad(source, result)
        return result

    if config.whiten is not None:
        vectors = torch.from_numpy(found(opened(config.whiten)).vectors)
        whitening = Whitening.learnt(vectors, dims=config.dims, centred=False)
        describe = replace(describe, whitening=whitening)
        kept, wanted = whitening.axes.shape[1], config.dims or vectors.shape[1]
        if kept < wanted:
            some = f"{len(vectors):,} images tell {kept:,} numbers apart, and whitening is to keep {wanted:,}"
            doubted(config.whiten, [f"{some}; give more images, or smaller dims"])
    others = None if config.distractors is None else torch.from_numpy(found(opened(config.distractors)).vectors)
    shown: dict[str, object] = {"shown": [repr(each) for each in describe.transforms], "read": repr(describe.reading)}
    if name in METS:
        result = met.run(found, partial(opened, config.data), dims=config.dims, device=backbone.device)
    elif name in WHO_ASKS:
        protocol = copydays if name == "copydays" else landmarks
        result = protocol.run(found, partial(opened, config.data), others, root=place_of(config.data))
    else:
        result = _labelled(backbone, config, describe, others)
    return result[0], result[1] | shown


def described(backbone: Backbone, config: Config) -> Descriptor:
    """Settle how images are described, without whitening: as the settings say, else as the set is published."""
    published = SETS.get(_name_of(config.data), Shown("square", lambda _: backbone.pixels.size))
    way, scales = WAYS[config.fit or published.fit], config.scales
    size = config.size or published.size(backbone.patch_size)
    if isinstance(backbone, RawPixels):  # which are a baseline, of one size
        way, size, scales = Padded if way is Whole else way, backbone.size, (1.0,)
    if size is None and (way is not Square or scales != (1.0,)):
        raise UserError(f"{backbone.name or 'this model'} sees images of any size; say which with --size")
    sizes = [None if size is None else max(1, round(scale * size)) for scale in scales]
    widest = max((each for each in sizes if each is not None), default=0)
    if widest > LARGEST:
        raise UserError(f"images would have {widest:,} pixels a side, at most {LARGEST:,} fit; give smaller --scales")
    power = published.gem if config.gem is None else config.gem
    return Descriptor(
        backbone=backbone,
        transforms=tuple(way(each, backbone.patch_size) for each in sizes),
        reading=WithGem(power) if power else Reading(),
    )


def _name_of(data: str) -> str:
    """Return the name of a published set with a protocol of its own here, else ''."""
    name = prefix(data).removesuffix(":")
    return name if name in SETS else ""


def _labelled(backbone: Backbone, config: Config, describe: Descriptor, others: Tensor | None) -> Found:
    """Search with every image for the others of its label."""
    images = task(backbone, config.data, gallery=config.split, query=config.split, described=describe)
    if others is not None:
        images = _among(images, others)
    each = {name: search(direction) for name, direction in _directions(images)}
    precision, first = (torch.cat(values) for values in zip(*each.values(), strict=True))
    if not len(precision):
        raise UserError(
            f"expected two or more images of a thing in {config.data}, got one of each; retrieval needs pairs"
        )
    values = {"mAP": precision, "R@1": first}
    for name, (area, hit) in each.items():
        values |= {f"mAP/{name}": area, f"R@1/{name}": hit} if name and len(area) else {}
    result = {name: 100 * found.mean().item() for name, found in values.items()}
    details: dict[str, object] = {"intervals": {name: percent(found.numpy()) for name, found in values.items()}}
    counts = {"queries": float(len(precision)), "gallery": float(len(images.gallery))}
    return result | counts, details | (images.leaks.details() if images.leaks else {})


def search(images: Task) -> tuple[Float[Tensor, " query"], Float[Tensor, " query"]]:
    """Return the average precision, and 1 or 0 for the first result, of every query that has a right answer.

    Equal similarities are one threshold of the precision; of several first results the first image counts.
    """
    precisions, firsts = [], []
    for part, found in compared(images.queries, images.gallery, leave_one_out=images.leave_one_out):
        relevant = images.gallery_labels == images.query_labels[part, None]
        seen = found > -torch.inf  # under leave-one-out, all but the image itself
        for similarity, right, there in zip(found.numpy(), (relevant & seen).numpy(), seen.numpy()):
            if right.any():
                precisions.append(average_precision(right[there], similarity[there]))
                firsts.append(float(right[similarity.argmax()]))
    return torch.tensor(precisions), torch.tensor(firsts)


def _directions(images: Task) -> Iterator[tuple[str, Task]]:
    """Yield (name, task) for every ordered pair of domains; one nameless task without domains."""
    # of what asks: distractors are of none, and searched in every direction
    domains = [] if images.query_domains is None else sorted(set(images.query_domains.tolist()))
    if len(domains) < 2:
        yield "", images
        return
    for asking in domains:
        for answering in domains:
            if asking != answering:
                yield f"{asking}-{answering}", _between(images, asking, answering)


def _between(images: Task, asking: object, answering: object) -> Task:
    assert images.gallery_domains is not None
    assert images.query_domains is not None
    left = torch.from_numpy(
        numpy.flatnonzero((images.gallery_domains == answering) | (images.gallery_labels < 0).numpy())
    )
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


def _among(images: Task, others: Float[Tensor, "image dim"]) -> Task:
    """Return the same search with distractors behind the gallery, of no label and of every domain."""
    domains = images.gallery_domains
    return replace(
        images,
        gallery=torch.cat([images.gallery, others]),
        gallery_labels=torch.cat([images.gallery_labels, torch.full((len(others),), -1)]),
        gallery_domains=None if domains is None else numpy.concatenate([domains, numpy.full(len(others), "")]),
    )
