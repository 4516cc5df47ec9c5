"""Losses of depth maps, both of log-depths and on the pixels that have a truth.

    sigloss    g = log(d + 0.001) - log(t + 0.001)        sqrt(Var(g) + 0.15 mean(g)^2)
    gradient   sum over strides 1, 2, 4, 6 of |d_i - d_(i+2)| of the difference map, down and across, per pixel

Sources: Eigen et al. 2014 (arXiv:1406.2283) section 3.2, in the form of AdaBins (arXiv:2011.14141) and DINOv2
(arXiv:2304.07193, section 7.4); the gradient term is that of MegaDepth (arXiv:1804.00607).
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_TINY = 1e-3
_MEAN = 0.15  # weight of the squared mean
STRIDES = (1, 2, 4, 6)


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
    valid = truth > 0
    difference = torch.where(valid, (depth + _TINY).log() - (truth + _TINY).log(), 0.0)
    terms = [_changes(difference[:, ::s, ::s], valid[:, ::s, ::s]) for s in STRIDES]
    return torch.stack(terms).sum()


def _changes(
    difference: Float[Tensor, "batch height width"], valid: Bool[Tensor, "batch height width"]
) -> Float[Tensor, ""]:
    down = (difference[:, 2:] - difference[:, :-2]).abs()[valid[:, 2:] & valid[:, :-2]].sum()
    across = (difference[:, :, 2:] - difference[:, :, :-2]).abs()[valid[:, :, 2:] & valid[:, :, :-2]].sum()
    return (down + across) / valid.sum().clamp_min(1)
