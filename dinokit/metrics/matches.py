"""Which found box is which object: matched once per image as COCO does it, and the precision of any draw of images.

Average precision (detection.py) is no mean over images, so its bootstrap needs it anew for every draw. Which box takes
which object does not depend on other images: it is settled once, and a draw of images only says how often each box
counts. A box that is right twice raises the recall by two objects at once; the precision in between would lie below the
one after it, which the curve, made to fall monotonously, takes for both. So a draw is what COCO would say of images
that are there several times.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy
from jaxtyping import Bool, Float64, Int64

from dinokit.metrics.boxes import overlaps
from dinokit.metrics.detection import FEDERATED, Found, Objects
from dinokit.metrics.interval import LEVEL

THRESHOLDS = numpy.linspace(0.5, 0.95, 10)  # of the IoU
RECALLS = numpy.linspace(0, 1, 101)
MOST = 100  # boxes of an image and class
DRAWS, FEW, HELD = 1000, 200, 20  # of images; of many classes at least; at once
WORK = 100_000  # classes of all draws together
NUMBERS = {"AP": slice(None), "AP50": slice(0, 1), "AP75": slice(5, 6)}  # the thresholds of each


@dataclass(frozen=True)
class Matched:
    """What became of the boxes found on an image, in their own order; one may be neither right nor wrong."""

    right: Bool[numpy.ndarray, "threshold found"]
    wrong: Bool[numpy.ndarray, "threshold found"]  # else it lies on a crowd, or there are 100 better ones of its class
    object: Int64[numpy.ndarray, " found"]  # that it is at the lowest threshold, -1: none


@dataclass(frozen=True)
class Ranked:
    """The boxes of a class on all images, the best first; those that are right at no threshold are only counted."""

    objects: Int64[numpy.ndarray, " image"]  # how many there are on each
    right: Bool[numpy.ndarray, "threshold box"]
    wrong: Bool[numpy.ndarray, "threshold box"]
    images: Int64[numpy.ndarray, " box"]
    before: Int64[numpy.ndarray, " box"]  # how many of the wrong ones come before it
    wrongs: Int64[numpy.ndarray, " wrong"]  # the images of boxes that are wrong at every threshold


def match(objects: Objects, found: Found, *, federated: bool = False) -> Matched:
    """Give each box, the best first, the free object of its class that it overlaps most.

    Args:
        federated: as LVIS counts: the 300 best boxes of an image, of classes that are known to be on it or not to be;
            one of a class of which some are drawn only is not wrong.
    """
    count, levels = len(found.scores), len(THRESHOLDS)
    shared = common(objects, found) * (found.classes[:, None] == objects.classes)  # [found, object]
    right, ignored = (numpy.zeros((levels, count), bool) for _ in range(2))
    taken, which = numpy.zeros((levels, len(objects.boxes)), bool), numpy.full(count, -1)
    order = numpy.argsort(-found.scores, kind="stable")
    ranks = numpy.arange(count) if federated else _ranks(found.classes[order])
    ignored[:, order[ranks >= (FEDERATED if federated else MOST)]] = True
    if federated:
        ignored[:, ~numpy.isin(found.classes, [*objects.classes, *objects.absent])] = True
    for place in order[(shared[order] >= THRESHOLDS[0]).any(axis=1) & ~ignored[0, order]].tolist():
        near = numpy.flatnonzero(shared[place] >= THRESHOLDS[0])
        _take(shared[place], near, objects.crowd, place, right, ignored, taken, which)
    if federated:
        ignored[:, numpy.isin(found.classes, objects.some_drawn)] = True
    return Matched(right, ~right & ~ignored, which)


def _ranks(kinds: Int64[numpy.ndarray, " found"]) -> Int64[numpy.ndarray, " found"]:
    """Return how many of the same kind come before each."""
    order = numpy.argsort(kinds, kind="stable")
    starts = numpy.searchsorted(kinds[order], kinds[order])
    ranks = numpy.empty(len(kinds), numpy.int64)
    ranks[order] = numpy.arange(len(kinds)) - starts
    return ranks


def _take(
    shared: Float64[numpy.ndarray, " object"],
    near: Int64[numpy.ndarray, " near"],
    crowd: Bool[numpy.ndarray, " object"],
    place: int,
    right: Bool[numpy.ndarray, "threshold found"],
    ignored: Bool[numpy.ndarray, "threshold found"],
    taken: Bool[numpy.ndarray, "threshold object"],
    which: Int64[numpy.ndarray, " found"],
) -> None:
    """Let a box take the best of the objects near it, at every threshold; of equal ones the last, as COCO does."""
    enough = shared[near] >= THRESHOLDS[:, None]  # [threshold, near]
    free = enough & ~crowd[near] & ~taken[:, near]
    value = numpy.where(free, shared[near], -1.0)[:, ::-1]
    best = near[len(near) - 1 - value.argmax(axis=1)]  # [threshold]
    takes = free.any(axis=1)
    right[takes, place] = True
    taken[takes, best[takes]] = True
    ignored[:, place] = ~takes & (enough & crowd[near]).any(axis=1)
    which[place] = best[0] if takes[0] else -1


def common(objects: Objects, found: Found) -> Float64[numpy.ndarray, "found object"]:
    """Return what boxes share with objects: of the union, with a crowd of the box."""
    shared = overlaps(found.boxes, objects.boxes)
    if objects.crowd.any():
        crowds, boxes = objects.boxes[objects.crowd], found.boxes
        sides = numpy.minimum(boxes[:, None, 2:], crowds[:, 2:]) - numpy.maximum(boxes[:, None, :2], crowds[:, :2])
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1, keepdims=True)
        shared[:, objects.crowd] = sides.clip(min=0).prod(axis=2) / numpy.maximum(areas, numpy.finfo(float).tiny)
    return shared


def ranked(
    objects: Sequence[Objects], found: Sequence[Found], matched: Sequence[Matched], *, classes: int
) -> list[Ranked]:
    """Rank the boxes of every class; of equal scores those of the earlier image come first."""
    images = numpy.repeat(numpy.arange(len(found)), [len(one.scores) for one in found])
    kinds, scores = (numpy.concatenate([getattr(one, name) for one in found]) for name in ("classes", "scores"))
    right, wrong = (numpy.concatenate([getattr(one, name) for one in matched], axis=1) for name in ("right", "wrong"))
    there = numpy.zeros((classes, len(objects)), numpy.int64)
    for image, one in enumerate(objects):
        numpy.add.at(there[:, image], one.classes[~one.crowd], 1)
    order = numpy.lexsort((-scores, kinds))
    order = order[(right | wrong).any(axis=0)[order]]
    starts = numpy.searchsorted(kinds[order], numpy.arange(classes + 1))
    every = []
    for kind in range(classes):
        mine = order[starts[kind] : starts[kind + 1]]
        points = numpy.flatnonzero(~wrong[:, mine].all(axis=0))
        mine = mine[: points[-1] + 1 if len(points) else 0]  # after the last right one they change nothing
        useless = numpy.isin(numpy.arange(len(mine)), points, invert=True)
        before = numpy.cumsum(useless)[points]
        some, wrongs = mine[points], images[mine[useless]]
        every.append(Ranked(there[kind], right[:, some], wrong[:, some], images[some], before, wrongs))
    return every


def precision(
    one: Ranked, times: Int64[numpy.ndarray, "draw image"]
) -> Float64[numpy.ndarray, "draw threshold recall"]:
    """Return the precision at 101 recalls of images each of which counts so many times; NaN without an object."""
    draws, levels, boxes = len(times), *one.right.shape
    total = times @ one.objects  # [draw]
    weight = times[:, None, one.images]  # [draw, 1, box]
    passed = numpy.cumsum(numpy.pad(times[:, one.wrongs], ((0, 0), (1, 0))), axis=1)[:, None, one.before]
    right = numpy.cumsum(one.right * weight, axis=2)  # [draw, threshold, box]
    wrong = numpy.cumsum(one.wrong * weight, axis=2) + passed
    exact = right / numpy.maximum(right + wrong, 1)
    falling = numpy.maximum.accumulate(exact[..., ::-1], axis=2)[..., ::-1]
    falling = numpy.pad(falling, ((0, 0), (0, 0), (0, 1)))  # recalls that are not reached
    # the first box by which a recall is reached, in all rows by one search: each row lies above the one before
    needed = numpy.repeat(_needed(total), levels, axis=0)  # [draw threshold, recall]
    above = numpy.arange(draws * levels)[:, None] * (int(total.max(initial=0)) + 2)
    first = numpy.searchsorted((right.reshape(len(above), boxes) + above).ravel(), (needed + above).ravel())
    first = first.reshape(needed.shape) - numpy.arange(draws * levels)[:, None] * boxes
    read: Float64[numpy.ndarray, "draw threshold recall"] = numpy.take_along_axis(
        falling.reshape(len(above), boxes + 1), first, axis=1
    ).reshape(draws, levels, -1)
    read[total == 0] = numpy.nan
    return read


def _needed(total: Int64[numpy.ndarray, " draw"]) -> Int64[numpy.ndarray, "draw recall"]:
    """Return how many objects must be found for each recall, as COCO's division rounds it."""
    whole = numpy.maximum(total, 1)[:, None]
    needed: Int64[numpy.ndarray, "draw recall"] = numpy.ceil(RECALLS * whole).astype(numpy.int64)
    needed -= (needed - 1) / whole >= RECALLS
    needed += needed / whole < RECALLS
    return needed


def curves(every: Sequence[Ranked]) -> Float64[numpy.ndarray, "threshold recall"]:
    """Return the precision at 101 recalls, averaged over the classes there are."""
    once = numpy.ones((1, len(every[0].objects)), numpy.int64)
    found: Float64[numpy.ndarray, "threshold recall"] = _mean(every, once)[0]
    return found


def interval(every: Sequence[Ranked], *, seed: int = 0) -> dict[str, list[float]]:
    """Return the ends of the 95 % bootstrap over images of AP, AP50 and AP75, in percent; of one image none."""
    images, drawn = len(every[0].objects), numpy.random.default_rng(seed)
    if images < 2:
        return {}
    draws = max(FEW, min(DRAWS, WORK // len(every)))
    times = (drawn.multinomial(images, numpy.full(images, 1 / images), size=HELD) for _ in range(draws // HELD))
    levels = numpy.concatenate([_mean(every, some).mean(axis=2) for some in times])  # [draw, threshold]
    ends = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    return {
        name: (100 * numpy.nanquantile(levels[:, chosen].mean(axis=1), ends)).tolist()
        for name, chosen in NUMBERS.items()
    }


def _mean(
    every: Sequence[Ranked], times: Int64[numpy.ndarray, "draw image"]
) -> Float64[numpy.ndarray, "draw threshold recall"]:
    """Average over the classes of which a draw has an object."""
    total = numpy.zeros((len(times), len(THRESHOLDS), len(RECALLS)))
    count = numpy.zeros((len(times), 1, 1))
    for one in every:
        found = precision(one, times)
        there = ~numpy.isnan(found[:, :1, :1])
        total += numpy.where(there, found, 0)
        count += there
    mean: Float64[numpy.ndarray, "draw threshold recall"] = numpy.divide(
        total, count, out=numpy.full_like(total, numpy.nan), where=count > 0
    )
    return mean
