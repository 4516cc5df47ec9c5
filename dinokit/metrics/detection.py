"""How well boxes with classes and scores are found: the average precision of COCO.

Of the 100 highest scores of an image and class, each takes the free object with which it has the largest IoU of at
least t, as far as there is one; the precision, made to fall monotonously, is read at 101 recalls and averaged. AP is
the mean over classes and t = 0.50, 0.55, ..., 0.95; AP50 and AP75 are at one t; APs, APm and APl count objects below
32^2, below 96^2, and larger, in pixels. What lies on a crowd is neither right nor wrong. Computed by faster-coco-eval
(extra `detection`), which gives the numbers of pycocotools. Source: Lin et al. 2014 (arXiv:1405.0312).

LVIS is federated: an image counts for a class that is drawn on it or was looked for and is `absent`, what is found of
others on it is passed over, and so is what is matched with nothing of a class of which only `some_drawn`. Of an image
the 300 highest scores of all classes count, and APr, APc and APf are of rare, common and frequent classes. Source:
Gupta et al. 2019 (arXiv:1908.03195).
"""

from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import Any

import numpy
from jaxtyping import Bool, Float64, Int64

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl")  # in the order of COCO's summary
FREQUENCIES = ("r", "c", "f")  # of a class of LVIS: in up to 10, up to 100, more training images
FEDERATED = 300  # detections of an image that count for LVIS


@dataclass(frozen=True)
class Objects:
    """What there is on an image; boxes are left, top, right, bottom in pixels."""

    boxes: Float64[numpy.ndarray, "object 4"]
    classes: Int64[numpy.ndarray, " object"]  # from 0
    areas: Float64[numpy.ndarray, " object"]  # pixels: of the outline if it is known
    crowd: Bool[numpy.ndarray, " object"]
    absent: tuple[int, ...] = ()  # LVIS: classes that are not there
    some_drawn: tuple[int, ...] = ()  # LVIS: classes of which there may be more


@dataclass(frozen=True)
class Found:
    """What was found on an image."""

    boxes: Float64[numpy.ndarray, "found 4"]
    classes: Int64[numpy.ndarray, " found"]
    scores: Float64[numpy.ndarray, " found"]


@dataclass(frozen=True)
class Ids:
    """How a file of COCO calls the images and classes of a set."""

    images: Sequence[int]
    classes: Sequence[int]
    names: Sequence[str]

    @classmethod
    def counted(cls, images: int, classes: int) -> "Ids":
        """Count both from 1."""
        return cls(range(1, images + 1), range(1, classes + 1), [str(kind) for kind in range(classes)])


def average_precision(
    objects: Sequence[Objects], found: Sequence[Found], *, classes: int, frequencies: Sequence[str] | None = None
) -> tuple[dict[str, float], Float64[numpy.ndarray, " class"]]:
    """Return AP, AP50, AP75, APs, APm, APl in percent, NaN without such an object, and the AP of every class.

    Args:
        frequencies: of every class, r, c or f: the measure is that of LVIS, with APr, APc, APf.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    if frequencies is not None:
        found = [_highest(one) for one in found]
    ids = Ids.counted(len(objects), classes)
    with redirect_stdout(StringIO()):
        truth = COCO(plain(objects, ids, frequencies))
        some = results(found, ids)  # of an empty list the library makes nothing
        said = truth.loadRes(some) if some else COCO(plain(objects, ids, frequencies) | {"annotations": []})
        judge = COCOeval_faster(truth, said, "bbox", lvis_style=frequencies is not None)
        judge.params.maxDets = judge.params.maxDets if frequencies is None else [FEDERATED]
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    precision = judge.eval["precision"][..., 0, -1]  # [threshold, recall, class] of all sizes, most per image
    there = (precision > -1).any(axis=(0, 1))  # classes without an object have no precision
    each = numpy.where(there, 100 * precision.mean(axis=(0, 1)), numpy.nan)
    values = (float(value) for value in judge.stats)
    numbers = {name: 100 * value if value >= 0 else numpy.nan for name, value in zip(NAMES, values)}
    for one in () if frequencies is None else FREQUENCIES:
        of_it = each[(numpy.array(frequencies) == one) & there]
        numbers[f"AP{one}"] = float(of_it.mean()) if len(of_it) else numpy.nan
    return numbers, each


def _highest(found: Found) -> Found:
    best = numpy.argsort(-found.scores, kind="stable")[:FEDERATED]
    return Found(found.boxes[best], found.classes[best], found.scores[best])


def plain(objects: Sequence[Objects], ids: Ids, frequencies: Sequence[str] | None = None) -> dict[str, Any]:
    """Return objects as COCO's JSON has them, or LVIS's."""
    marks = [
        {
            "image_id": image,
            "category_id": ids.classes[int(kind)],
            "bbox": sided(box),
            "area": float(area),
            "iscrowd": int(crowd),
        }
        for image, one in zip(ids.images, objects, strict=True)
        for box, kind, area, crowd in zip(one.boxes, one.classes, one.areas, one.crowd)
    ]
    images: list[dict[str, Any]] = [{"id": image} for image in ids.images]
    kinds: list[dict[str, Any]] = [{"id": kind, "name": name} for kind, name in zip(ids.classes, ids.names)]
    if frequencies is not None:
        for image, one in zip(images, objects):
            image["neg_category_ids"] = [ids.classes[kind] for kind in one.absent]
            image["not_exhaustive_category_ids"] = [ids.classes[kind] for kind in one.some_drawn]
        for kind, frequency in zip(kinds, frequencies):
            kind["frequency"] = frequency
    annotations = [{"id": number, **mark} for number, mark in enumerate(marks, start=1)]
    return {"images": images, "annotations": annotations, "categories": kinds}


def results(found: Sequence[Found], ids: Ids) -> list[dict[str, Any]]:
    """Return detections as COCO's JSON of results has them."""
    return [
        {"image_id": image, "category_id": ids.classes[int(kind)], "bbox": sided(box), "score": float(score)}
        for image, one in zip(ids.images, found, strict=True)
        for box, kind, score in zip(one.boxes, one.classes, one.scores)
    ]


def sided(box: Iterable[float]) -> list[float]:
    """Return left, top, width, height."""
    left, top, right, bottom = map(float, box)
    return [left, top, right - left, bottom - top]
