"""Errors of depth maps, per image; those of a set are the means over its images.

Source: Eigen et al. 2014 (arXiv:1406.2283) section 4, whose crop of NYUv2 and of KITTI are here too; Garg et al. 2016
(arXiv:1603.04992) for the other crop of KITTI.
"""

from collections.abc import Sequence
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


def errors(found: Values, truth: Values) -> dict[str, float]:
    """Return all measures of the pixels of one image; both must be positive. Deltas are in percent."""
    found, truth = found.astype(numpy.float64), truth.astype(numpy.float64)
    difference, logs = found - truth, numpy.log(found) - numpy.log(truth)
    larger = numpy.maximum(found / truth, truth / found)
    measures = {
        "RMSE": numpy.sqrt(numpy.mean(difference**2)),
        "AbsRel": numpy.mean(numpy.abs(difference) / truth),
        "SqRel": numpy.mean(difference**2 / truth),
        "RMSElog": numpy.sqrt(numpy.mean(logs**2)),
        "log10": numpy.mean(numpy.abs(numpy.log10(found) - numpy.log10(truth))),
        "SILog": 100 * numpy.std(logs),
        "MAE": numpy.mean(numpy.abs(difference)),
    }
    measures |= {f"delta{power}": 100 * numpy.mean(larger < 1.25**power) for power in (1, 2, 3)}
    return {name: float(value) for name, value in measures.items()}


def mean(images: Sequence[dict[str, float]]) -> dict[str, float]:
    """Average over images, each counting the same."""
    return {name: float(numpy.mean([image[name] for image in images])) for name in images[0]}
