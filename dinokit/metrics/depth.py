"""Errors of depth maps, per image; those of a set are the means over its images.

Source: Eigen et al. 2014 (arXiv:1406.2283) section 4, whose crop of NYUv2 and of KITTI are here too; Garg et al. 2016
(arXiv:1603.04992) for the other crop of KITTI.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy
from jaxtyping import Bool, Float

Crop = Literal["none", "nyu", "garg", "eigen"]
# rows and columns that count, as shares of height and width
CROPS: dict[str, tuple[float, float, float, float]] = {
    "none": (0.0, 1.0, 0.0, 1.0),
    "nyu": (45 / 480, 471 / 480, 41 / 640, 601 / 640),
    "garg": (0.40810811, 0.99189189, 0.03594771, 0.96405229),
    "eigen": (0.3324324, 0.91351351, 0.03594771, 0.96405229),
}
Values = Float[numpy.ndarray, " pixel"]


def counted(
    truth: Float[numpy.ndarray, "height width"], *, low: float, high: float, crop: Crop = "none"
) -> Bool[numpy.ndarray, "height width"]:
    """Return which pixels count: depth within (low, high), inside the crop."""
    height, width = truth.shape
    top, bottom, left, right = CROPS[crop]
    inside = numpy.zeros(truth.shape, dtype=bool)
    inside[int(top * height) : int(bottom * height), int(left * width) : int(right * width)] = True
    valid: Bool[numpy.ndarray, "height width"] = inside & (truth > low) & (truth < high)
    return valid


MEASURES: dict[str, Callable[[Values, Values], float]] = {
    "RMSE": lambda found, truth: _root(found - truth),
    "AbsRel": lambda found, truth: float(numpy.mean(numpy.abs(found - truth) / truth)),
    "SqRel": lambda found, truth: float(numpy.mean((found - truth) ** 2 / truth)),
    "RMSElog": lambda found, truth: _root(numpy.log(found) - numpy.log(truth)),
    "log10": lambda found, truth: float(numpy.mean(numpy.abs(numpy.log10(found) - numpy.log10(truth)))),
    "SILog": lambda found, truth: 100 * float(numpy.std(numpy.log(found) - numpy.log(truth))),
    "MAE": lambda found, truth: float(numpy.mean(numpy.abs(found - truth))),
    "delta1": lambda found, truth: _within(found, truth, 1.25),
    "delta2": lambda found, truth: _within(found, truth, 1.25**2),
    "delta3": lambda found, truth: _within(found, truth, 1.25**3),
}


def errors(found: Values, truth: Values) -> dict[str, float]:
    """Return all measures of the pixels of one image; both must be positive. Deltas are in percent."""
    found, truth = found.astype(numpy.float64), truth.astype(numpy.float64)
    return {name: measure(found, truth) for name, measure in MEASURES.items()}


def mean(images: Sequence[dict[str, float]]) -> dict[str, float]:
    """Average over images, each counting the same."""
    return {name: float(numpy.mean([image[name] for image in images])) for name in MEASURES}


def _root(difference: Values) -> float:
    return float(numpy.sqrt(numpy.mean(difference**2)))


def _within(found: Values, truth: Values, factor: float) -> float:
    return 100 * float(numpy.mean(numpy.maximum(found / truth, truth / found) < factor))
