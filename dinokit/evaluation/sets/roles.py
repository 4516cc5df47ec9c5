"""Which images of a set are learnt from, choose and are measured, or answer and ask; few of each class, too.

Every split has one role, and what is doubtful about the classes is said once.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy
import torch
from jaxtyping import Int64
from torch import Tensor

from dinokit.core.messages import UserError, info, warn
from dinokit.core.numbers import above, at_least
from dinokit.core.seed import generator
from dinokit.curation.neighbours import places_of
from dinokit.models.features import Backbone
from dinokit.sources.check import doubts, images_of_classes
from dinokit.sources.location import split_name
from dinokit.sources.published import is_published
from dinokit.sources.source import Source, labelled, open_source, splits, thinned

TRAIN_SPLIT = "train"
TEST_SPLITS = ("val", "test")  # in this order
JUDGES = ("test", "val")  # of what also chooses: splits to test on, in this order
CHOICE, FEW_CHOICE, TEST = 0.1, 0.01, 0.2  # shares of each class that are set aside to choose, few-shot, and to test
DRAWS = 5  # of few images

_warn_once, _say_once = cache(warn), cache(info)


@dataclass(frozen=True, kw_only=True)
class FewShot:
    """Settings of an evaluation in which few images of each class may stand for all."""

    shots: float | None = above(0, None)  # images of each class to learn from, or below 1 their share; null: all
    draws: int | None = at_least(1, None)  # of these images, with the seeds 0, 1, ...; null: 5

    def __post_init__(self) -> None:
        if self.shots is not None and self.shots > 1 and self.shots != int(self.shots):
            raise UserError(f"shots must be a whole number of images or a share below 1, got {self.shots:g}")
        if self.draws is not None and self.shots is None:
            raise UserError(f"draws ({self.draws}) are of the images that shots says; give shots, or leave draws out")

    def drawn(self, labels: Int64[Tensor, " image"]) -> list[Int64[numpy.ndarray, " drawn"]]:
        """Return the places of the images of every draw; there are shots."""
        assert self.shots is not None
        return [some_of_each(labels, self.shots, seed) for seed in range(self.draws or DRAWS)]


def some_of_each(labels: Int64[Tensor, " image"], shots: float, seed: int) -> Int64[numpy.ndarray, " drawn"]:
    """Draw images of each class, in their order; of one with fewer all, by a share at least one."""
    places = labels.numpy()
    order = generator(seed).permutation(len(places))
    order = order[numpy.argsort(places[order], kind="stable")]
    counts = numpy.bincount(places)
    wanted = numpy.maximum(counts * shots, 1).astype(numpy.int64) if shots < 1 else numpy.full(len(counts), int(shots))
    found: Int64[numpy.ndarray, " drawn"] = numpy.sort(order[places_of(places[order]) < wanted[places[order]]])
    return found


def parted(
    labels: Int64[Tensor, " image"], share: float
) -> tuple[Int64[numpy.ndarray, " rest"], Int64[numpy.ndarray, " aside"]]:
    """Set a share of each class aside, at least one image, but of a class of one none; return the rest, and it."""
    places = labels.numpy()
    aside = some_of_each(labels, share, seed=0)
    aside = aside[numpy.bincount(places)[places[aside]] > 1]
    return numpy.setdiff1d(numpy.arange(len(places)), aside), aside


def roles(
    config: Any, known: Sequence[str], *, choosing: str, shared: bool = False
) -> tuple[str | None, str | None, str | None]:
    """Return the splits that are learnt from, choose, and are measured; None where a part of the first has to do it.

    Args:
        config: with data, train, val and test.
        known: splits of the data.
        choosing: what is chosen, for a message.
        shared: the split that is measured may choose, as in the linear evaluations of the papers.

    Raises:
        UserError: if one split would do two of it: what is chosen, and measured, must not be on what is learnt.
    """
    train, val, test = (name and split_name(name) for name in (config.train, config.val, config.test))
    test = test or next(
        (name for name in JUDGES if name in known and name not in (train, None if shared else val)), None
    )
    train = train or (TRAIN_SPLIT if TRAIN_SPLIT in known else None)
    val = val or ("val" if "val" in known and "val" not in ((train,) if shared else (train, test)) else None)
    val = test if val is None and shared else val
    if known and train is None:
        raise UserError(f"expected a split train in {config.data}, found {', '.join(known)}; name one with --train")
    given = [name for name in (train, val, None if shared and val == test else test) if name is not None]
    if len(set(given)) < len(given):
        raise UserError(
            f"expected three different splits to learn from, to choose {choosing} and to test on, got "
            f"{', '.join(given)}; leave one out, and a part of train does it"
        )
    return train, val, test


def thirds(
    backbone: Backbone, config: Any, *, choosing: str, shared: bool = False, chooses: bool = True
) -> tuple[Source, Source | None, Source]:
    """Open the images that are learnt from, those that choose and those that are measured; say what is doubtful.

    Without a split for it, a share of each class of the first is set aside, few-shot a smaller one to choose.

    Args:
        config: with data, train, val, test, limit and shots.
        choosing: what is chosen, for a message.
        shared: the split that is measured may choose; it is then the same source.
        chooses: whether there is anything to choose; else the second is None.
    """
    learn, choose, judge = roles(config, splits(config.data), choosing=choosing, shared=shared)
    train = opened(backbone, config.data, split=learn, limit=config.limit)
    if judge is None:
        info(f"no split to test on in {config.data}: {TEST:.0%} of each class are set aside for it")
        train, test = _set_aside(train, TEST, config.data)
    else:
        test = opened(backbone, config.data, split=judge, limit=config.limit)
    if not ((images_of_classes(train)[1] > 0) & (images_of_classes(test)[1] > 0)).any():
        raise UserError(
            f"no class of the test images of {config.data} is one of the training images, so that no answer can be "
            "right; name the class folders alike"
        )
    doubted(config.data, doubts(test, train))
    if not chooses:
        return train, None, test
    if choose is not None and choose == judge:
        _say_once(f"{config.data}: {choose} chooses {choosing} and is measured, as published, which flatters a little")
        return train, test, test
    if choose is not None:
        return train, opened(backbone, config.data, split=choose, limit=config.limit), test
    train, val = _set_aside(train, CHOICE if config.shots is None else FEW_CHOICE, config.data)
    return train, val, test


def _set_aside(source: Source, share: float, data: str) -> tuple[Source, Source]:
    """Set a share of each class aside; return the rest, and it."""
    assert source.labels is not None
    rest, aside = parted(torch.from_numpy(source.labels), share)
    if not len(aside):
        raise UserError(
            f"expected two or more images of a class to learn from in {data}, got one of each, so that none can be set "
            "aside; add images, or a split val and a split test"
        )
    return source.subset(rest), source.subset(aside)


def sides(data: str, gallery: str | None, query: str | None) -> tuple[str | None, str | None]:
    """Choose (gallery split, query split) where they are not given: train and val, or else test.

    Of a published set test comes first: that is what its numbers are of. Data without both is compared with itself:
    (None, None).
    """
    if (gallery is None) != (query is None):
        raise UserError("expected both a gallery and a query split, got one; give both, or none for train and val/test")
    if gallery is not None and query is not None:
        return split_name(gallery), split_name(query)
    known = splits(data)
    asks = [name for name in (JUDGES if is_published(data) else TEST_SPLITS) if name in known]
    return (TRAIN_SPLIT, asks[0]) if TRAIN_SPLIT in known and asks else (None, None)


def opened(backbone: Backbone, data: str, *, split: str | None, limit: int | None = None) -> Source:
    """Open the labelled images of a split, of two classes or more."""
    source = labelled(open_source(data, split=split, channels=backbone.channels, white=backbone.pixels.white))
    if source.labels is None or len(source.classes) < 2:
        if is_published(data):
            raise UserError(f"expected labelled images, and {data} has none; `dinokit evaluate retrieval` measures it")
        raise UserError(
            f"expected labelled images of two or more classes in {data}, found {_classes(source)}; put each class in "
            "its own folder: DATA/CLASS/image.jpg, or DATA/train/CLASS/image.jpg with DATA/val/CLASS/image.jpg, or "
            "give a manifest a column label, and its file as DATA"
        )
    return source if limit is None else thinned(source, limit)


def _classes(source: Source) -> str:
    """Say which classes a source has that has not two, by its labels or by its folders, of which one alone is none."""
    keys = [source.key(index) for index in range(len(source))]
    folders = {key.rpartition("/")[0] for key in keys}
    if source.classes or (len(folders) == 1 and "" not in folders):
        return f"one, {source.classes[0] if source.classes else folders.pop()}: {len(keys):,} images"
    beside = [key for key in keys if "/" not in key]
    return f"none, for {len(beside):,} images lie beside the folders, such as {beside[0]}" if folders > {""} else "none"


def doubted(data: str, lines: Iterable[str]) -> None:
    """Say each line of some data once, for the baselines of a model are measured on the same."""
    for line in lines:
        _warn_once(f"{data}: {line}")
