"""How well the masks of a video follow its objects: region similarity J and contour accuracy F.

    J = |P and G| / |P or G|        F = 2 precision recall / (precision + recall) of the boundaries

A boundary pixel of one mask counts as found if the other has one within a disk of 0.8 % of the image's diagonal.
MOSE v2 measures otherwise: J = (|P and G| + 1) / (|P or G| + 1), the disk has ceil(0.1 sqrt(|G|)) pixels if that is
less, and it reports the stretches of frames in which an object is gone, and those in which it is back, apart.
Source: Perazzi et al. 2016 (CVPR, "A benchmark dataset and evaluation methodology for video object segmentation"),
section 5; DAVIS 2017 (arXiv:1704.00675), which takes the mean over objects; MOSE v2 (arXiv:2508.05630).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float64, Integer
from torch.nn.functional import max_pool2d

TOLERANCE = 0.008  # of the diagonal
Measure = Literal["davis", "mose2"]
Mask = Bool[np.ndarray, "height width"]


@dataclass(frozen=True)
class Series:
    """An object in the frames that count."""

    j: Float64[np.ndarray, " frame"]
    f: Float64[np.ndarray, " frame"]
    there: Bool[np.ndarray, " frame"]  # whether the truth shows it


def region(found: Mask, truth: Mask, measure: Measure = "davis") -> float:
    """Return J; 1 if both masks are empty."""
    union, more = np.count_nonzero(found | truth), int(measure == "mose2")
    return 1.0 if union == 0 else (np.count_nonzero(found & truth) + more) / (union + more)


def contour(found: Mask, truth: Mask, measure: Measure = "davis") -> float:
    """Return F; 1 if neither mask has a boundary, 0 if one alone has none."""
    radius: float | int = math.ceil(TOLERANCE * math.hypot(*truth.shape))
    if measure == "mose2":
        radius = min(math.ceil(0.1 * math.sqrt(np.count_nonzero(truth))), TOLERANCE * math.hypot(*truth.shape))
    edges = boundary(found), boundary(truth)
    counts = [np.count_nonzero(edge) for edge in edges]
    if 0 in counts:
        return float(counts[0] == counts[1])
    precision = np.count_nonzero(edges[0] & widened(edges[1], radius)) / counts[0]
    recall = np.count_nonzero(edges[1] & widened(edges[0], radius)) / counts[1]
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def boundary(mask: Mask) -> Mask:
    """Return the pixels that differ from their right, lower or lower right neighbour."""
    beyond = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    edges: Mask = mask != beyond[:-1, 1:]
    edges |= (mask != beyond[1:, :-1]) | (mask != beyond[1:, 1:])
    return edges


def widened(mask: Mask, radius: float | int) -> Mask:
    """Return the pixels within a disk of so many pixels around those of the mask."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return mask
    # nothing happens far from the mask
    far = int(radius)
    top, left = max(rows[0] - far, 0), max(columns[0] - far, 0)
    window = np.s_[top : rows[-1] + far + 1, left : columns[-1] + far + 1]
    part = torch.from_numpy(np.ascontiguousarray(mask[window]))[None, None].float()
    out = torch.zeros(part.shape[2:], dtype=torch.bool)
    for shift in range(far + 1):  # the disk as one run of columns per row
        reach = int(math.sqrt(radius**2 - shift**2))
        wide = max_pool2d(part, (1, 2 * reach + 1), stride=1, padding=(0, reach))[0, 0].bool()
        out[: len(out) - shift] |= wide[shift:]
        out[shift:] |= wide[: len(out) - shift]
    result = np.zeros_like(mask)
    result[window] = out.numpy()
    return result


def scores(
    found: Sequence[Integer[np.ndarray, "height width"]],
    truth: Sequence[Integer[np.ndarray, "height width"]],
    starts: Mapping[int, int],
    *,
    measure: Measure = "davis",
) -> dict[int, Series]:
    """Return J and F of every object in every frame that counts: those after the one it was given in, but the last.

    Args:
        found, truth: numbers of objects, 0 the background.
        starts: by object, the index of the frame it was given in.
    """
    result = {}
    for number, start in starts.items():
        pairs = [(f == number, t == number) for f, t in zip(found[start + 1 : -1], truth[start + 1 : -1], strict=True)]
        result[number] = Series(
            np.array([region(f, t, measure) for f, t in pairs]),
            np.array([contour(f, t, measure) for f, t in pairs]),
            np.array([t.any() for _, t in pairs], dtype=bool),
        )
    return result


def summary(objects: Mapping[str, Series], *, measure: Measure = "davis") -> dict[str, float]:
    """Return means over all objects of a set, in percent: J and F with recall and decay, and the mean of both.

    Recall is the share of frames above 0.5; decay, how much the first quarter of the frames is above the last. Of MOSE
    v2, `J&F/gone` and `J&F/back` are means over the stretches of an object, then over the objects that have any.
    """
    result: dict[str, float] = {}
    counted = [one for one in objects.values() if len(one.j)]
    for name, each in (("J", [one.j for one in counted]), ("F", [one.f for one in counted])):
        result[name] = _mean([series.mean() for series in each])
        result[f"{name}_recall"] = _mean([(series > 0.5).mean() for series in each])
        result[f"{name}_decay"] = _mean([_decay(series) for series in each])
    result = {"J&F": (result["J"] + result["F"]) / 2} | result
    if measure == "mose2":
        for name, there in (("gone", False), ("back", True)):
            means = []
            for one in counted:
                changes = [*(np.flatnonzero(np.diff(one.there)) + 1).tolist(), len(one.there)]
                spans = [slice(a, b) for a, b in pairwise(changes) if one.there[a] == there]
                if spans:
                    means.append(float(np.mean([(one.j[span].mean() + one.f[span].mean()) / 2 for span in spans])))
            result[f"J&F/{name}"] = _mean(means)
    return result


def _decay(series: Float64[np.ndarray, " frame"]) -> float:
    # the quarters share their outer frames, as in the benchmark's own evaluation
    _, first, _, last, _ = np.round(np.linspace(0, len(series) - 1, 5) + 1e-10).astype(int)
    return float(series[: first + 1].mean() - series[last:].mean())


def _mean(values: Sequence[float]) -> float:
    return 100 * float(np.mean(values)) if values else math.nan
