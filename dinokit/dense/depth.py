"""Depth: its losses, the windows a head learns from, and how depths are drawn; the heads stand in depth_heads.py.

Both losses are of log-depths, on the pixels that have a truth:

    sigloss    g = log(d + 0.001) - log(t + 0.001)        sqrt(Var(g) + 0.15 mean(g)^2)
    gradient   sum over strides 1, 2, 4, 6 of |d_i - d_(i+2)| of the difference map, down and across, per pixel

Sources: Eigen et al. 2014 (arXiv:1406.2283) section 3.2, in the form of AdaBins (arXiv:2011.14141) and DINOv2
(arXiv:2304.07193, section 7.4); the gradient term is that of MegaDepth (arXiv:1804.00607).
"""

from collections.abc import Mapping
from typing import Any

import numpy
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F

from dinokit.core.seed import generator
from dinokit.dense.depth_heads import DPT, DPTConfig, LinearConfig, LinearDepth
from dinokit.dense.maps import resized, scaled
from dinokit.images import intensity

HEADS = {"linear-depth": (LinearConfig, LinearDepth), "dpt": (DPTConfig, DPT)}
FOLDERS = ("depth", "colours")
DETAILS = ("low", "high")  # of a head, in metres
# settings that earlier versions wrote into head.json, and the value that all heads had
RETIRED = {"bins.count": 256, "bins.spacing": "uniform", "bins.link": "linear", "levels": None, "readout": "project"}
STRIDES = (1, 2, 4, 6)
_TINY = 1e-3
_MEAN = 0.15  # weight of the squared mean
# near to far: bright yellow over red to dark blue, evenly spaced
_COLOURS = numpy.array([(253, 231, 140), (250, 150, 60), (200, 60, 70), (110, 25, 110), (30, 12, 60)], dtype=float)
_MOST = 65_535
_WIDTH, _HEIGHT = 320, 48  # pixels of the legend
_MARKS = 5
_SPAN = 50  # from the farthest to where colours begin: ranges often begin at a millimetre, where nothing is


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


def units(high: float) -> float:
    """Return the steps of a metre in the PNG: the finest that fits of millimetres, 1/256 m as KITTI, and coarser."""
    return next((steps for steps in (1000.0, 256.0, 100.0, 10.0, 1.0) if high * steps <= _MOST), _MOST / high)


def pictures(
    values: Float[Tensor, "1 1 rows columns"], image: intensity.Image, details: Mapping[str, Any]
) -> dict[str, Image.Image]:
    """Draw the depth of every pixel in 16 bits, and in colours, on a log scale."""
    low, high = details["low"], details["high"]
    metres = resized(values, (image.shape[1], image.shape[2]))[0, 0].clamp(low, high).cpu().numpy()
    steps = (metres * units(high)).round().clip(1, _MOST).astype(numpy.uint16)  # 0 would say: not known
    shown = coloured(metres, low=max(low, high / _SPAN), high=high)
    return {"depth": Image.fromarray(steps), "colours": Image.fromarray(shown)}


def legend(details: Mapping[str, Any]) -> Image.Image:
    """Draw which colour is which distance, and what a step of the PNG is."""
    low, high = details["low"], details["high"]
    near = max(low, high / _SPAN)
    scale = numpy.geomspace(near, high, _WIDTH)[None].repeat(16, axis=0)
    page = Image.new("RGB", (_WIDTH + 40, _HEIGHT), "white")
    page.paste(Image.fromarray(coloured(scale, low=near, high=high)), (20, 2))
    pen = ImageDraw.Draw(page)
    for mark in range(_MARKS):
        share = mark / (_MARKS - 1)
        pen.text((20 + share * _WIDTH, 20), f"{near * (high / near) ** share:.3g} m", fill="black", anchor="ma")
    pen.text((20 + _WIDTH / 2, 33), f"depth/: 1 m = {units(high):g}, 16 bits", fill="black", anchor="ma")
    return page


def coloured(
    metres: Float[numpy.ndarray, "rows columns"], *, low: float, high: float
) -> UInt8[numpy.ndarray, "rows columns 3"]:
    """Return colours of distances, by their logarithm."""
    share = (numpy.log(metres.clip(low, high)) - numpy.log(low)) / (numpy.log(high) - numpy.log(low))
    places = numpy.linspace(0, 1, len(_COLOURS))
    channels = [numpy.interp(share, places, _COLOURS[:, channel]) for channel in range(3)]
    return numpy.stack(channels, axis=-1).round().astype(numpy.uint8)
