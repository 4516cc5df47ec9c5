"""What a detector gets wrong: every box and object of an image is told by a word, and an image by how well it is done.

Looked at are the boxes whose score is at least that by which most is right: the largest F1 = 2 right / (boxes +
objects), over all images and classes together. Of these a box is

    right           COCO's match at an IoU of 0.5 (matches.py)
    double          the object that it overlaps most, by an IoU of at least 0.5, is of its class, and another box has it
    confused        that object is of another class
    loose           else it overlaps an object of its class, by 0.1 at least
    alarm           else: there is nothing of its class

and an object is found, confused (only by a confused box), or missed. The quality of an image is the sum of the IoU of
right boxes over right + (wrong boxes + objects that are not found) / 2, the panoptic quality of all classes at once
(arXiv:1801.00868). How confused an image is, is the sum of the scores of its confused boxes. The kinds follow TIDE
(arXiv:2008.08115).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy
from jaxtyping import Float64, Int64

from dinokit.metrics.boxes import ENOUGH, overlaps
from dinokit.metrics.detection import Found, Objects
from dinokit.metrics.matches import Matched

KINDS = ("right", "double", "confused", "loose", "alarm")
STATES = ("found", "confused", "missed")
RIGHT, DOUBLE, CONFUSED, LOOSE, ALARM = range(5)
TAKEN, MISTAKEN, MISSED = range(3)
NEITHER = -1  # a box of too low a score or on a crowd, or a crowd
BARELY = 0.1  # IoU
LISTED = 100  # pairs of classes that are confused


@dataclass(frozen=True)
class Told:
    """What was said of an image."""

    kinds: Int64[numpy.ndarray, " found"]  # places in KINDS, or NEITHER
    about: Int64[numpy.ndarray, " found"]  # the object that a box is compared with; -1: none
    overlap: Float64[numpy.ndarray, " found"]  # its IoU with that one
    states: Int64[numpy.ndarray, " object"]  # places in STATES, or NEITHER
    quality: float  # NaN where there is neither a box nor an object
    confusion: float


def sure(objects: Sequence[Objects], found: Sequence[Found], matched: Sequence[Matched]) -> float:
    """Return the score by which most is right; if nothing is, that by which there are as many boxes as objects."""
    scores = numpy.concatenate([one.scores for one in found])
    right, wrong = (numpy.concatenate([getattr(one, name)[0] for one in matched]) for name in ("right", "wrong"))
    count = int(sum((~one.crowd).sum() for one in objects))
    if not len(scores):
        return 1.0
    order = numpy.argsort(-scores, kind="stable")
    scores, hits = scores[order], numpy.cumsum(right[order])
    whole = numpy.append(scores[1:] < scores[:-1], True)  # of equal scores all are taken, or none
    good = numpy.where(whole, 2 * hits / (numpy.cumsum((right | wrong)[order]) + count), -1)
    place = good.argmax() if hits[-1] else min(max(count, 1), len(scores)) - 1
    return float(scores[place])


def told(objects: Objects, found: Found, matched: Matched, *, least: float) -> Told:
    """Tell what is right and wrong on an image.

    Args:
        least: score of a box that is looked at.
    """
    real = numpy.flatnonzero(~objects.crowd)
    shared = overlaps(found.boxes, objects.boxes[real])  # [found, real]
    mine = shared * (found.classes[:, None] == objects.classes[real])
    kinds, about = numpy.full(len(found.scores), NEITHER), numpy.full(len(found.scores), -1)
    counted = (found.scores >= least) & (matched.right[0] | matched.wrong[0])
    for place in numpy.flatnonzero(counted).tolist():
        kinds[place], about[place] = ALARM, -1
        if matched.right[0, place]:
            kinds[place], about[place] = RIGHT, matched.object[place]
        elif len(real) and shared[place].max() >= ENOUGH:
            about[place] = real[shared[place].argmax()]
            same = objects.classes[about[place]] == found.classes[place]
            kinds[place] = DOUBLE if same else CONFUSED
        elif len(real) and mine[place].max() >= BARELY:
            kinds[place], about[place] = LOOSE, real[mine[place].argmax()]
    states = numpy.where(objects.crowd, NEITHER, MISSED)
    states[about[kinds == CONFUSED]] = MISTAKEN
    states[about[kinds == RIGHT]] = TAKEN
    overlap = numpy.zeros(len(kinds))
    some = about >= 0
    overlap[some] = shared[some, numpy.searchsorted(real, about[some])]
    right, wrong = int((kinds == RIGHT).sum()), int((kinds > RIGHT).sum())
    lost = int((states > TAKEN).sum())
    good = float(overlap[kinds == RIGHT].sum())
    quality = good / (right + (wrong + lost) / 2) if right + wrong + lost else numpy.nan
    return Told(kinds, about, overlap, states, quality, float(found.scores[kinds == CONFUSED].sum()))


def best(every: Sequence[Told], count: int) -> list[int]:
    """Return the images with objects that are done best, of equal ones those of more objects first."""
    some = [place for place, one in enumerate(every) if (one.states != NEITHER).any()]
    return sorted(some, key=lambda place: (-every[place].quality, -len(every[place].states)))[:count]


def worst(every: Sequence[Told], count: int) -> list[int]:
    """Return the images that are done worst, of equal ones those of more mistakes first."""
    some = [place for place, one in enumerate(every) if not numpy.isnan(one.quality) and _mistakes(one)]
    return sorted(some, key=lambda place: (every[place].quality, -_mistakes(every[place])))[:count]


def most_confused(every: Sequence[Told], count: int) -> list[int]:
    """Return the images whose confused boxes have the largest scores, summed."""
    some = [place for place, one in enumerate(every) if one.confusion]
    return sorted(some, key=lambda place: -every[place].confusion)[:count]


def _mistakes(one: Told) -> int:
    return int((one.kinds > RIGHT).sum() + (one.states > TAKEN).sum())


def confusions(
    objects: Sequence[Objects], found: Sequence[Found], every: Sequence[Told], *, classes: int
) -> Int64[numpy.ndarray, "class class"]:
    """Count confused boxes by the class of the object and the class that was said."""
    table = numpy.zeros((classes, classes), numpy.int64)
    for there, said, one in zip(objects, found, every, strict=True):
        wrong = one.kinds == CONFUSED
        numpy.add.at(table, (there.classes[one.about[wrong]], said.classes[wrong]), 1)
    return table


def counts(
    objects: Sequence[Objects], found: Sequence[Found], every: Sequence[Told], *, classes: int
) -> tuple[Int64[numpy.ndarray, "class kind"], Int64[numpy.ndarray, "class state"]]:
    """Count the boxes of every class by their kinds, and its objects by their states."""
    boxes, things = numpy.zeros((classes, len(KINDS)), numpy.int64), numpy.zeros((classes, len(STATES)), numpy.int64)
    for there, said, one in zip(objects, found, every, strict=True):
        for table, kinds, words in ((boxes, said.classes, one.kinds), (things, there.classes, one.states)):
            some = words != NEITHER
            numpy.add.at(table, (kinds[some], words[some]), 1)
    return boxes, things


def account(
    objects: Sequence[Objects], found: Sequence[Found], matched: Sequence[Matched], *, classes: int, shown: int
) -> dict[str, Any]:
    """Return all of it as plain values, with the boxes of so many of the best, worst and most confused images."""
    least = sure(objects, found, matched)
    every = [told(*each, least=least) for each in zip(objects, found, matched, strict=True)]
    boxes, things = counts(objects, found, every, classes=classes)
    table = confusions(objects, found, every, classes=classes)
    pairs = numpy.argsort(-table, axis=None, kind="stable")[: min(LISTED, int((table > 0).sum()))]
    chosen = {"best": best(every, shown), "worst": worst(every, shown), "confused": most_confused(every, shown)}
    places = sorted({place for some in chosen.values() for place in some})
    return {
        "least": least,
        "images": len(every),
        "boxes": boxes.tolist(),  # of each class by KINDS
        "objects": things.tolist(),  # of each class by STATES
        "confusions": [[*divmod(pair, classes), int(table.flat[pair])] for pair in pairs.tolist()],  # truth, said
        **chosen,
        "shown": [{"place": at} | _plain(objects[at], found[at], every[at]) for at in places],
    }


def _plain(objects: Objects, found: Found, one: Told) -> dict[str, Any]:
    """Return an image: its objects, and the boxes that were looked at."""
    there = [
        {"box": box, "class": kind, "state": None if state == NEITHER else STATES[state]}
        for box, kind, state in zip(objects.boxes.tolist(), objects.classes.tolist(), one.states.tolist(), strict=True)
    ]
    said = [
        {
            "box": found.boxes[place].tolist(),
            "class": int(found.classes[place]),
            "score": float(found.scores[place]),
            "kind": KINDS[one.kinds[place]],
            "about": None if one.about[place] < 0 else int(one.about[place]),
            "iou": float(one.overlap[place]),
        }
        for place in numpy.argsort(-found.scores, kind="stable").tolist()
        if one.kinds[place] != NEITHER
    ]
    quality = None if numpy.isnan(one.quality) else one.quality
    return {"quality": quality, "confusion": one.confusion, "objects": there, "found": said}
