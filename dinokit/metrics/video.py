"""How well the masks of a video follow its objects: region similarity J and contour accuracy F.

    J = |P and G| / |P or G|        F = 2 precision recall / (precision + recall) of the boundaries

A boundary pixel of one mask counts as found if the other has one within a disk of 0.8 % of the image's diagonal.
Source: Perazzi et al. 2016 (CVPR, "A benchmark dataset and evaluation methodology for video object segmentation"),
section 5; DAVIS 2017 (arXiv:1704.00675), which takes the mean over objects.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float64, Integer
from torch.nn.functional import max_pool2d

TOLERANCE = 0.008  # of the diagonal

Series = tuple[Float64[np.ndarray, " frame"], Float64[np.ndarray, " frame"]]  # J and F of an object


def region(found: Bool[np.ndarray, "height width"], truth: Bool[np.ndarray, "height width"]) -> float:
    """Return J: the intersection over the union; 1 if both masks are empty."""
    union = np.count_nonzero(found | truth)
    return 1.0 if union == 0 else np.count_nonzero(found & truth) / union


def contour(found: Bool[np.ndarray, "height width"], truth: Bool[np.ndarray, "height width"]) -> float:
    """Return F; 1 if neither mask has a boundary, 0 if one alone has none."""
    radius = math.ceil(TOLERANCE * math.hypot(*truth.shape))
    edges = boundary(found), boundary(truth)
    counts = [np.count_nonzero(edge) for edge in edges]
    if 0 in counts:
        return float(counts[0] == counts[1])
    precision = np.count_nonzero(edges[0] & widened(edges[1], radius)) / counts[0]
    recall = np.count_nonzero(edges[1] & widened(edges[0], radius)) / counts[1]
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def boundary(mask: Bool[np.ndarray, "height width"]) -> Bool[np.ndarray, "height width"]:
    """Return the pixels that differ from their right, lower or lower right neighbour."""
    beyond = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    edges: Bool[np.ndarray, "height width"] = mask != beyond[:-1, 1:]
    edges |= (mask != beyond[1:, :-1]) | (mask != beyond[1:, 1:])
    return edges


def widened(mask: Bool[np.ndarray, "height width"], radius: int) -> Bool[np.ndarray, "height width"]:
    """Return the pixels within a disk of so many pixels around those of the mask."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return mask
    # nothing happens far from the mask
    top, left = max(rows[0] - radius, 0), max(columns[0] - radius, 0)
    window = np.s_[top : rows[-1] + radius + 1, left : columns[-1] + radius + 1]
    part = torch.from_numpy(np.ascontiguousarray(mask[window]))[None, None].float()
    out = torch.zeros(part.shape[2:], dtype=torch.bool)
    for shift in range(radius + 1):  # the disk as one run of columns per row
        reach = math.isqrt(radius**2 - shift**2)
        wide = max_pool2d(part, (1, 2 * reach + 1), stride=1, padding=(0, reach))[0, 0].bool()
        out[: len(out) - shift] |= wide[shift:]
        out[shift:] |= wide[: len(out) - shift]
    result = np.zeros_like(mask)
    result[window] = out.numpy()
    return result


def scores(
    found: Sequence[Integer[np.ndarray, "height width"]], truth: Sequence[Integer[np.ndarray, "height width"]]
) -> dict[int, Series]:
    """Return J and F of every object in every frame that counts: all but the first, which was given, and the last.

    Args:
        found, truth: numbers of objects, 0 the background; objects are those of the first frame of the truth.
    """
    objects = [int(number) for number in np.unique(truth[0]) if number]
    pairs = list(zip(found, truth, strict=True))[1:-1]
    return {
        number: (
            np.array([region(f == number, t == number) for f, t in pairs]),
            np.array([contour(f == number, t == number) for f, t in pairs]),
        )
        for number in objects
    }


def summary(
    objects: Mapping[str, Series],
) -> dict[str, float]:
    """Return means over all objects of a set, in percent: J and F with recall and decay, and the mean of both.

    Recall is the share of frames above 0.5; decay, how much the first quarter of the frames is above the last.
    """
    result: dict[str, float] = {}
    for place, name in enumerate("JF"):
        each = [series[place] for series in objects.values() if len(series[place])]
        result[name] = _mean([series.mean() for series in each])
        result[f"{name}_recall"] = _mean([(series > 0.5).mean() for series in each])
        result[f"{name}_decay"] = _mean([_decay(series) for series in each])
    return {"J&F": (result["J"] + result["F"]) / 2} | result


def _decay(series: Float64[np.ndarray, " frame"]) -> float:
    # the quarters share their outer frames, as in the benchmark's own evaluation
    _, first, _, last, _ = np.round(np.linspace(0, len(series) - 1, 5) + 1e-10).astype(int)
    return float(series[: first + 1].mean() - series[last:].mean())


def _mean(values: Sequence[float]) -> float:
    return 100 * float(np.mean(values)) if values else math.nan
