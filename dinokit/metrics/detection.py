"""How well boxes with classes and scores are found: the average precision of COCO.

Of the 100 highest scores of an image and class, each takes the free object with which it has the largest IoU of at
least t, as far as there is one; the precision, made to fall monotonously, is read at 101 recalls and averaged. AP is
the mean over classes and t = 0.50, 0.55, ..., 0.95; AP50 and AP75 are at one t; APs, APm and APl count objects below
32^2, below 96^2, and larger, in pixels. What lies on a crowd is neither right nor wrong. Computed by faster-coco-eval
(extra `detection`), which gives the numbers of pycocotools. Source: Lin et al. 2014 (arXiv:1405.0312).
"""

from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import Any

import numpy
from jaxtyping import Bool, Float64, Int64

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl")  # in the order of COCO's summary


@dataclass(frozen=True)
class Objects:
    """What there is on an image; boxes are left, top, right, bottom in pixels."""

    boxes: Float64[numpy.ndarray, "object 4"]
    classes: Int64[numpy.ndarray, " object"]  # from 0
    areas: Float64[numpy.ndarray, " object"]  # pixels: of the outline if it is known
    crowd: Bool[numpy.ndarray, " object"]


@dataclass(frozen=True)
class Found:
    """What was found on an image."""

    boxes: Float64[numpy.ndarray, "found 4"]
    classes: Int64[numpy.ndarray, " found"]
    scores: Float64[numpy.ndarray, " found"]


def average_precision(
    objects: Sequence[Objects], found: Sequence[Found], *, classes: int
) -> tuple[dict[str, float], Float64[numpy.ndarray, " class"]]:
    """Return AP, AP50, AP75, APs, APm, APl in percent, NaN without such an object, and the AP of every class."""
    from faster_coco_eval import COCO, COCOeval_faster

    with redirect_stdout(StringIO()):
        truth = COCO(plain(objects, classes))
        some = results(found)  # of an empty list the library makes nothing
        said = truth.loadRes(some) if some else COCO(plain(objects, classes) | {"annotations": []})
        judge = COCOeval_faster(truth, said, "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    precision = judge.eval["precision"][..., 0, -1]  # [threshold, recall, class] of all sizes, 100 per image
    there = (precision > -1).any(axis=(0, 1))  # classes without an object have no precision
    each = numpy.where(there, 100 * precision.mean(axis=(0, 1)), numpy.nan)
    values = (float(value) for value in judge.stats)
    return {name: 100 * value if value >= 0 else numpy.nan for name, value in zip(NAMES, values)}, each


def plain(objects: Sequence[Objects], classes: int) -> dict[str, Any]:
    """Return objects as COCO's JSON has them; images and classes count from 1."""
    marks = [
        {
            "image_id": image,
            "category_id": int(kind) + 1,
            "bbox": sided(box),
            "area": float(area),
            "iscrowd": int(crowd),
        }
        for image, one in enumerate(objects, start=1)
        for box, kind, area, crowd in zip(one.boxes, one.classes, one.areas, one.crowd)
    ]
    return {
        "images": [{"id": image} for image in range(1, len(objects) + 1)],
        "annotations": [{"id": number, **mark} for number, mark in enumerate(marks, start=1)],
        "categories": [{"id": kind + 1, "name": str(kind)} for kind in range(classes)],
    }


def results(found: Sequence[Found]) -> list[dict[str, Any]]:
    """Return detections as COCO's JSON of results has them."""
    return [
        {"image_id": image, "category_id": int(kind) + 1, "bbox": sided(box), "score": float(score)}
        for image, one in enumerate(found, start=1)
        for box, kind, score in zip(one.boxes, one.classes, one.scores)
    ]


def sided(box: Iterable[float]) -> list[float]:
    """Return left, top, width, height."""
    left, top, right, bottom = map(float, box)
    return [left, top, right - left, bottom - top]
