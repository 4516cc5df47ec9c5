"""What every evaluation shares: protocols by name, frozen features, which images ask and answer, baselines; and the
frame of those that train heads: which protocol, which splits, the best of several heads.

An evaluation is a file of this folder with a frozen dataclass `Config` and `run(backbone, config, out)`, which returns
its numbers and what else was found, both for OUT/NAME.json, and writes all but these to `out`; its name is the file's
name, and `measure` calls it. It may say more of itself: `PATCHES = True` if patches are measured and not CLS; `UNITS`,
the unit of a number by the beginning of its name. Every accuracy, recall and average precision is in percent.
"""

from collections.abc import Callable, Iterable, Sequence, Sized
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import numpy
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from dinokit.core.files import write_json
from dinokit.core.messages import UserError, info, unknown_name, warn
from dinokit.core.numbers import above, at_least
from dinokit.core.order import evenly
from dinokit.core.seed import generator
from dinokit.curation.neighbours import places_of
from dinokit.dense.embedding import Read
from dinokit.dense.extraction import Embeddings, extract
from dinokit.dense.fit import Member
from dinokit.dense.heads import About, save_head
from dinokit.dense.leaks import Leaks, leaks
from dinokit.models.features import Backbone
from dinokit.models.pixels import PatchPixels, RawPixels
from dinokit.sources.base import Metric
from dinokit.sources.check import doubts, images_of_classes
from dinokit.sources.location import SPLITS, split_name
from dinokit.sources.published import is_published
from dinokit.sources.source import Source, labelled, open_source, splits, thinned
from dinokit.sources.table import members, undecided

TRAIN_SPLIT = "train"
TEST_SPLITS = ("val", "test")  # in this order
JUDGES = ("test", "val")  # of what also chooses: splits to test on, in this order
CHOICE, FEW_CHOICE, TEST = 0.1, 0.01, 0.2  # shares of each class that are set aside to choose, few-shot, and to test
NAMES = {"random-init": "untrained", "raw-pixels": "raw pixels"}  # of the baselines, for a person

Found = tuple[dict[str, float], dict[str, object]]  # numbers, and what else NAME.json says
C = TypeVar("C")
S = TypeVar("S", bound=Sized)
QUICK = "quick"  # the protocol that learns from a bank of patches
IMAGES = 500, 200  # of training, of test, at most, of the quick protocol

# similarities held at once, in numbers: 128 MiB of float64
CHUNK = 1 << 24
DRAWS = 5  # of few images

_warn_once, _say_once = cache(warn), cache(info)


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


def names() -> list[str]:
    """List the evaluations on disk."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in ("__init__", "base"))


def find(name: str) -> ModuleType:
    """Return the module of an evaluation, with its `Config` and `run`, or raise UserError."""
    if name not in names():
        raise unknown_name("evaluation", name, names())
    return import_module(f"dinokit.evaluation.{name}")


def measure(name: str, backbone: Backbone, config: Any, out: Path | None = None) -> dict[str, float]:
    """Measure a backbone by an evaluation.

    Args:
        out: folder that receives NAME.json, with details, and whatever else the evaluation makes; None writes nothing.
    """
    numbers: dict[str, float]
    numbers, details = find(name).run(backbone, settled(config, backbone), out)
    if out is not None:
        write_json(out / f"{name}.json", numbers | details)
    return numbers


def baselines(backbone: Backbone, *, seed: int = 0, dense: bool = False) -> dict[str, Backbone]:
    """Build what a result must be compared with: the same architecture untrained, and the pixels themselves.

    Args:
        seed: of the untrained weights.
        dense: the pixels of every patch, for what is measured on patches, instead of those of the whole image.
    """
    pixels = PatchPixels(patch_size=backbone.patch_size, channels=backbone.channels) if dense else raw_pixels(backbone)
    return {"random-init": backbone.untrained(seed=seed), "raw-pixels": pixels}


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
    answers: Embeddings,
    *,
    above: float | None = None,
    names: tuple[str, str] = ("test", "train"),
) -> Leaks:
    """Find the pictures that two parts of some data share, see `leaks`, and say them once."""
    found = leaks(asks, answers, above=above)
    if len(found):
        doubted(data, [found.line(*names)])
    return found


def doubted(data: str, lines: Iterable[str]) -> None:
    """Say each line of some data once, for the baselines of a model are measured on the same."""
    for line in lines:
        _warn_once(f"{data}: {line}")


def features(
    backbone: Backbone, data: str, *, split: str | None, limit: int | None = None, reading: Read | None = None
) -> Embeddings:
    """Extract the features of the labelled images of a split, of two classes or more, all with images.

    Args:
        reading: what is read of the network; None: its CLS token.
    """
    return embedded(backbone, opened(backbone, data, split=split, limit=limit), reading=reading)


def opened(backbone: Backbone, data: str, *, split: str | None, limit: int | None = None) -> Source:
    """Open the labelled images of a split, of two classes or more."""
    source = labelled(open_source(data, split=split, channels=backbone.channels, white=backbone.pixels.white))
    if source.labels is None or len(source.classes) < 2:
        raise UserError(
            f"expected labelled images in {data}, got {len(source.classes)} classes; put each class in its own folder: "
            "DATA/CLASS/image.jpg, or DATA/train/CLASS/image.jpg with DATA/val/CLASS/image.jpg, or give a manifest a "
            "column label"
        )
    return source if limit is None else thinned(source, limit)


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


def raw_pixels(backbone: Backbone) -> RawPixels:
    """Build the raw-pixel baseline for a backbone: images up to 48 px as they are, larger ones at 32 px.

    Large vectors would need gigabytes, and shrinking makes this baseline stronger: 34.4 -> 36.7 mAP on demo:emoji.
    """
    size = backbone.pixels.size
    side = size if size is not None and size <= 48 else 32
    return RawPixels(size=side, channels=backbone.channels)


def settled(config: C, backbone: Backbone) -> C:
    """Choose one of several protocols if none is given: the published one, on a CPU the quick one, and say so.

    The baselines of a model are measured by its settled settings.
    """
    settings: Any = config
    if getattr(config, "protocol", "its only one") is not None or getattr(config, "head", None) is not None:
        return config
    published = getattr(config, "published", "linear")
    if backbone.device.type != "cpu":
        return replace(settings, protocol=published)  # type: ignore[no-any-return]
    other = f"--protocol {published} is the published one, which takes hours"
    info(f"on a CPU: the quick protocol, right in minutes; {other}")
    return replace(settings, protocol=QUICK)  # type: ignore[no-any-return]


def halves(
    config: Any,
    opened: Callable[[str | None], S],
    known: Sequence[str],
    *,
    prefers: Sequence[str],
    trains: bool = True,
) -> tuple[S, list[int], S, list[int]]:
    """Open what is learnt from and what is measured on, and choose images of each; without training both are the same.

    Args:
        config: with data, protocol, train, test and limit.
        known: splits of the data.
        prefers: splits to measure on.

    Raises:
        UserError: if there is none: a head that is measured on what it has seen says nothing.
    """
    judge = config.test or next((name for name in prefers if name in known), None)
    if judge is None and (trains or known):
        raise UserError(f"expected a split to test on in {config.data}, found no split {' or '.join(prefers)}; add one")
    learn = config.train or (SPLITS[0] if SPLITS[0] in known else None)
    if trains and learn is None:
        raise UserError(
            f"expected a split to train on in {config.data}, found no split train beside {', '.join(known)}; add one, "
            "or name one with --train"
        )
    if trains and split_name(str(learn)) == split_name(str(judge)):
        warn(f"trained and measured on the same images, of {judge}: the numbers say how well they are learnt by heart")
    train = opened(learn) if trains else None
    test = opened(judge)
    most, few = IMAGES if config.protocol == QUICK else (None, None)
    train = test if train is None else train
    return train, evenly(most, len(train)).tolist(), test, evenly(config.limit or few, len(test)).tolist()


def keep_best(
    backbone: Backbone,
    members: Sequence[Member],
    judged: Callable[[nn.Module], Found],
    *,
    better: Callable[[dict[str, float]], float],
    out: Path | None,
    **about: Any,
) -> Found:
    """Judge every head; return what was found of the best, and keep it if it was trained here.

    As published, the best of a sweep of learning rates is the best on the test images.

    Args:
        better: larger for the better numbers.
        about: of `About.of`, for a head that was trained here.
    """
    found = [judged(member.head) for member in members]
    best = max(range(len(members)), key=lambda place: better(found[place][0]))
    (numbers, details), member = found[best], members[best]
    if member.lr is None:
        return numbers, details
    if out is not None:
        save_head(out / "head", member.head, About.of(backbone, **about))
    return numbers | {"lr": member.lr}, details
