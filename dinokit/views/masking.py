"""Which patches of the global crops the student must not see: stratified ratios, BEiT's blocks.

Of all the global crops of a batch exactly int(count * probability) are masked, with ratios spread evenly over the range
(so that the number of hidden patches of a batch hardly varies), in random order. Each mask is a union of rectangles.
Source: BEiT (arXiv:2106.08254, algorithm 1), DINOv2 and DINOv3.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from dinokit.core.numbers import between
from dinokit.core.seed import generator

_STREAM = 2  # keeps these random numbers apart from the order (0), the views (1) and the replacements (3)
_TRIES = 10  # rectangles in vain before a mask is left as it is
_MIN_AREA = 4  # patches; smallest rectangle, unless less is missing
_MAX_ASPECT = 1 / 0.3  # height / width is log-uniform in [0.3, 1 / 0.3]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Masks of the global crops."""

    probability: float = between(0, 1, 0.5)  # fraction of the global crops that are masked, exact per batch
    ratio: tuple[float, float] = between(0, 1, (0.1, 0.5), rising=True)  # of the patches of a masked crop
    style: Literal["dinov2", "dinov3"] = "dinov3"  # exact counts; dinov2: random target, blocks may fall short of it


def sample_masks(
    config: Config, *, views: int, batch: int, grid: tuple[int, int], seed: int, step: int, first: int
) -> Bool[Tensor, "view batch patch"]:
    """Sample the masks of all global crops of a batch; True where hidden.

    Args:
        grid: patches per column and per row, (rows, columns).
        first: position of the first image in the global batch of this step.
    """
    generate = generator(seed, _STREAM, step, first)
    crops, patches = views * batch, grid[0] * grid[1]
    masked = int(crops * config.probability)
    edges = np.linspace(*config.ratio, masked + 1)
    ratios = edges[1:] if config.style == "dinov3" else generate.uniform(edges[:-1], edges[1:])
    targets = (patches * ratios).astype(np.int64)
    masks = _blocks(targets, grid, generate).reshape(masked, patches)
    if config.style == "dinov3":
        # more patches at random until every mask has exactly its target: what is hidden stays so and comes first
        priority = np.where(masks, -1.0, generate.random(masks.shape))
        masks = priority.argsort(axis=1).argsort(axis=1) < targets[:, None]
    out = np.zeros((crops, patches), dtype=bool)
    out[generate.permutation(crops)[:masked]] = masks
    return torch.from_numpy(out).view(views, batch, patches)


def _blocks(
    targets: Int64[np.ndarray, "mask"], grid: tuple[int, int], generate: np.random.Generator
) -> Bool[np.ndarray, "mask row column"]:
    """Add random rectangles to every mask, never beyond its target, until it is reached or ten tries in a row fail.

    All masks grow side by side, one try of each per turn.
    """
    rows, columns = grid
    largest = (rows // 2) * columns  # no rectangle hides more than half of the image
    masks = np.zeros((len(targets), rows, columns), dtype=bool)
    failures = np.zeros(len(targets), dtype=np.int64)
    growing = np.flatnonzero(targets > 0)
    while len(growing):
        cap = np.minimum(targets[growing] - masks[growing].sum(axis=(1, 2)), largest)
        draws = generate.random((4, len(growing)))
        # with less than 4 missing the range is reversed, as in the original
        area = _MIN_AREA + (cap - _MIN_AREA) * draws[0]
        aspect = np.exp(math.log(_MAX_ASPECT) * (2 * draws[1] - 1))
        height, width = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
        top, left = np.floor(draws[2] * (rows - height + 1)), np.floor(draws[3] * (columns - width + 1))
        block = _interval(top, height, rows)[:, :, None] & _interval(left, width, columns)[:, None, :]
        new = (block & ~masks[growing]).sum(axis=(1, 2))
        accepted = (height < rows) & (width < columns) & (new > 0) & (new <= cap)
        masks[growing[accepted]] |= block[accepted]
        failures[growing] = np.where(accepted, 0, failures[growing] + 1)
        done = (masks[growing].sum(axis=(1, 2)) >= targets[growing]) | (failures[growing] >= _TRIES)
        growing = growing[~done]
    return masks


def _interval(start: np.ndarray, length: np.ndarray, side: int) -> Bool[np.ndarray, "mask side"]:
    positions = np.arange(side)
    inside: np.ndarray = (positions >= start[:, None]) & (positions < (start + length)[:, None])
    return inside
