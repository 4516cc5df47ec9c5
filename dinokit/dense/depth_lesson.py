"""What heads of depth learn from: windows of images with their depths, and two losses.

Both losses are of log-depths, on the pixels that have a truth:

    sigloss    g = log(d + 0.001) - log(t + 0.001)        sqrt(Var(g) + 0.15 mean(g)^2)
    gradient   sum over strides 1, 2, 4, 6 of |d_i - d_(i+2)| of the difference map, down and across, per pixel

Sources: sigloss: Eigen et al. 2014 (arXiv:1406.2283, section 3.2) in the form of AdaBins (arXiv:2011.14141) and DINOv2
(arXiv:2304.07193); gradient: MegaDepth (arXiv:1804.00607).
"""

import numpy
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from dinokit.core.seed import generator
from dinokit.dense.depth import Bins
from dinokit.dense.maps import scaled
from dinokit.images import intensity

STRIDES = (1, 2, 4, 6)
_GRADIENT = 0.5  # weight of its loss
_WARM = 100  # first steps in which sigloss leaves the variance out
_TINY = 1e-3
_MEAN = 0.15  # weight of the squared mean


def sigloss(
    depth: Float[Tensor, "batch height width"], truth: Float[Tensor, "batch height width"], *, warm: bool = False
) -> Float[Tensor, ""]:
    """Return the scale-invariant loss; pixels whose truth is 0 do not count.

    Args:
        warm: leave the variance out, as in the first steps.
    """
    valid = truth > 0
    if int(valid.sum()) < 2:  # a variance wants two
        return depth.sum() * 0
    difference = (depth[valid] + _TINY).log() - (truth[valid] + _TINY).log()
    squared = _MEAN * difference.mean() ** 2
    return squared.sqrt() if warm else (difference.var() + squared).sqrt()


def gradient_loss(
    depth: Float[Tensor, "batch height width"], truth: Float[Tensor, "batch height width"]
) -> Float[Tensor, ""]:
    """Return how much the difference of log-depths changes from place to place."""
    known = truth > 0
    errors = torch.where(known, (depth + _TINY).log() - (truth + _TINY).log(), 0.0)
    terms = []
    for stride in STRIDES:
        difference, valid = errors[:, ::stride, ::stride], known[:, ::stride, ::stride]
        down = (difference[:, 2:] - difference[:, :-2]).abs()[valid[:, 2:] & valid[:, :-2]].sum()
        across = (difference[:, :, 2:] - difference[:, :, :-2]).abs()[valid[:, :, 2:] & valid[:, :, :-2]].sum()
        terms.append((down + across) / valid.sum().clamp_min(1))
    return torch.stack(terms).sum()


def log_loss(
    values: Float[Tensor, "batch 1 height width"],
    truth: Float[Tensor, "batch height width"],
    step: int,
    *,
    bins: Bins,
    gradient: bool,
) -> Float[Tensor, ""]:
    """Return the loss of depths within the range of the bins, with half of the gradient term, as DINOv2, or without."""
    depth, truth = values[:, 0], torch.where((truth > bins.low) & (truth < bins.high), truth, 0.0)
    term = sigloss(depth, truth, warm=step < _WARM)
    return term + _GRADIENT * gradient_loss(depth, truth) if gradient else term


def mean_depths(
    cells: Float[Tensor, "rows columns pixel"], *, low: float, high: float
) -> tuple[Float[Tensor, "rows columns"], Bool[Tensor, "rows columns"]]:
    """Return the mean depth of every patch, and whether it counts: where half of its pixels have one in the range."""
    valid = (cells > low) & (cells < high)
    known = valid.sum(dim=2)
    return (cells * valid).sum(dim=2) / known.clamp_min(1), 2 * known >= cells.shape[2]


def crop(
    image: intensity.Image,
    metres: Float[numpy.ndarray, "height width"],
    window: tuple[int, int],
    *,
    short: int | None,
    border: tuple[int, int, int, int] | None,
    key: tuple[int, ...],
) -> tuple[Float[Tensor, "channel rows columns"], Float[Tensor, "rows columns"]]:
    """Cut a window out of an image and its depth, mirror half of them, change the light of half by up to a quarter."""
    draws = generator(*key)
    pixels, truth = seen(image, metres, short=short, border=border)
    top, left = (int(draws.integers(max(side - wanted, 0) + 1)) for side, wanted in zip(truth.shape, window))
    place = (slice(top, top + window[0]), slice(left, left + window[1]))
    pixels, truth = pixels[(..., *place)], truth[place]
    if draws.random() < 0.5:
        pixels, truth = pixels.flip(-1), truth.flip(-1)
    if draws.random() < 0.5:
        pixels = (pixels * float(draws.uniform(0.75, 1.25))).clamp(*intensity.value_range(image))
    missing = (0, window[1] - truth.shape[1], 0, window[0] - truth.shape[0])
    return F.pad(pixels, missing, value=torch.nan), F.pad(truth, missing, value=0.0)


def seen(
    image: intensity.Image,
    metres: Float[numpy.ndarray, "height width"],
    *,
    short: int | None,
    border: tuple[int, int, int, int] | None,
) -> tuple[Float[Tensor, "channel rows columns"], Float[Tensor, "rows columns"]]:
    """Return what training sees of an image and its depth.

    Its scale is that of a test, which sees the border as well: the whole image is resized, then the border goes.

    Args:
        short: pixels; short side to which images are resized first.
        border: top, bottom, left, right of what is seen.
    """
    pixels = scaled(image, short=short)[0]
    truth = F.interpolate(torch.from_numpy(metres)[None, None], size=pixels.shape[1:], mode="nearest-exact")[0, 0]
    if border is not None:
        factor = 1.0 if short is None else short / min(metres.shape)
        top, bottom, left, right = (round(edge * factor) for edge in border)
        pixels, truth = pixels[:, top:bottom, left:right], truth[top:bottom, left:right]
    return pixels, truth
