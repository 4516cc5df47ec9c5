"""Intersection over union of segmentations, summed over a whole set of images.

IoU_c = TP / (TP + FP + FN) from one confusion matrix of all pixels; mIoU is the mean over the classes that occur in the
truth or in a prediction. Pixels of truth 255 count for nothing. Source: Everingham et al. 2010 (Pascal VOC), as in
DINOv2 (arXiv:2304.07193, section 7.4).
"""

from dataclasses import dataclass

import numpy
from jaxtyping import Float64, Int64, Integer

IGNORED = 255


@dataclass(frozen=True)
class Scores:
    """In percent; NaN where a class occurs nowhere."""

    iou: Float64[numpy.ndarray, " class"]
    accuracy: Float64[numpy.ndarray, " class"]  # share of the pixels of a class that are found
    miou: float  # mean of the IoU over the classes that occur
    macc: float  # mean of the accuracy over the classes of the truth
    aacc: float  # share of all pixels that are right


def confusion(
    truth: Integer[numpy.ndarray, "height width"], found: Integer[numpy.ndarray, "height width"], *, classes: int
) -> Int64[numpy.ndarray, "truth found"]:
    """Count the pixels of each pair of classes; sum the result over images. ValueError if a class is out of range.

    Args:
        truth: 0 to classes - 1, or 255 for pixels that do not count.
        found: 0 to classes - 1.
    """
    counted = truth != IGNORED
    left, right = truth[counted].astype(numpy.int64), found[counted].astype(numpy.int64)
    if len(left) and max(left.max(), right.max()) >= classes:
        raise ValueError(f"expected classes 0 to {classes - 1} or {IGNORED}, got {max(left.max(), right.max())}")
    return numpy.bincount(left * classes + right, minlength=classes**2).reshape(classes, classes).astype(numpy.int64)


def scores(matrix: Int64[numpy.ndarray, "truth found"]) -> Scores:
    """Turn a confusion matrix into percentages; ValueError if it counts no pixel."""
    if not matrix.any():
        raise ValueError("expected a confusion matrix of at least one pixel, got none")
    right, truth, found = numpy.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    with numpy.errstate(invalid="ignore"):
        iou = 100 * right / (truth + found - right)
        accuracy = 100 * right / truth
    return Scores(
        iou=iou,
        accuracy=accuracy,
        miou=float(numpy.nanmean(iou)),
        macc=float(numpy.nanmean(accuracy)),
        aacc=float(100 * right.sum() / matrix.sum()),
    )
