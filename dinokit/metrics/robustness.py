"""Robustness of a classifier to corruptions of its images: the mean corruption error, relative to AlexNet's.

    CE_c = sum over severities s of err(c, s) / sum over the same severities of AlexNet's err(c, s)
    mCE  = mean of CE_c over the 15 corruptions of the benchmark

Source: Hendrycks & Dietterich 2019 (arXiv:1903.12261), section 4.1, with the errors of AlexNet on ImageNet-C as its
authors published them. Four more corruptions are measured alike and never averaged.
"""

from collections.abc import Mapping
from dataclasses import dataclass

OFFICIAL = (
    *("gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression"),
)
# top-1 errors of AlexNet at the severities 1 to 5
ALEXNET: dict[str, tuple[float, ...]] = {
    "gaussian_noise": (0.69528, 0.82542, 0.93554, 0.98138, 0.99452),
    "shot_noise": (0.71224, 0.85108, 0.93574, 0.98182, 0.99146),
    "impulse_noise": (0.78374, 0.89808, 0.94870, 0.98720, 0.99548),
    "defocus_blur": (0.65624, 0.73202, 0.85036, 0.91364, 0.94714),
    "glass_blur": (0.64308, 0.75054, 0.88806, 0.91622, 0.93344),
    "motion_blur": (0.58430, 0.70048, 0.82108, 0.89750, 0.92638),
    "zoom_blur": (0.70008, 0.76992, 0.80784, 0.84198, 0.87198),
    "snow": (0.71726, 0.88392, 0.86468, 0.91870, 0.94952),
    "frost": (0.61390, 0.79734, 0.88790, 0.89942, 0.93430),
    "fog": (0.67474, 0.76050, 0.84378, 0.87260, 0.94500),
    "brightness": (0.45140, 0.48502, 0.54048, 0.62166, 0.72440),
    "contrast": (0.64548, 0.76150, 0.88874, 0.97760, 0.99270),
    "elastic_transform": (0.52596, 0.70116, 0.55686, 0.64076, 0.80554),
    "pixelate": (0.52218, 0.54620, 0.73728, 0.87092, 0.91262),
    "jpeg_compression": (0.51002, 0.54718, 0.57294, 0.65458, 0.74778),
    "speckle_noise": (0.66192, 0.74440, 0.90246, 0.94548, 0.97268),
    "gaussian_blur": (0.54732, 0.70444, 0.82574, 0.89864, 0.95940),
    "spatter": (0.47196, 0.62194, 0.75052, 0.84132, 0.90182),
    "saturate": (0.59342, 0.65514, 0.51174, 0.70834, 0.82260),
}


@dataclass(frozen=True)
class Corruptions:
    """What a classifier makes of corrupted images."""

    mce: float | None  # over the official corruptions that there are, 1.0 = AlexNet's; None: there is none of them
    each: dict[str, float]  # CE of every corruption, also of the four others
    missing: tuple[str, ...]  # official ones that are not there, or not at every severity


def parsed(domain: str) -> tuple[str, int] | None:
    """Return the corruption and the severity, 1 to 5, that "corruption/severity" names; None if it is no such name."""
    name, _, severity = domain.replace("\\", "/").strip("/").rpartition("/")
    known = name in ALEXNET and severity in ("1", "2", "3", "4", "5")
    return (name, int(severity)) if known else None


def corruption_errors(errors: Mapping[tuple[str, int], float]) -> Corruptions:
    """Compare top-1 errors in [0, 1], by corruption and severity, with AlexNet's at the same severities."""
    found: dict[str, list[int]] = {}
    for name, severity in errors:
        found.setdefault(name, []).append(severity)
    each = {
        name: sum(errors[name, severity] for severity in severities)
        / sum(ALEXNET[name][severity - 1] for severity in severities)
        for name, severities in found.items()
    }
    counted = [each[name] for name in OFFICIAL if name in each]
    missing = tuple(name for name in OFFICIAL if len(found.get(name, ())) < len(ALEXNET[name]))
    return Corruptions(sum(counted) / len(counted) if counted else None, each, missing)
