"""How well patches tell places apart, judged without labels: the dense health of a network.

Long training makes patches worse while the CLS token still gains (DINOv3, arXiv:2508.10104, section 4.1): similarity
maps grow noisy, and what is near is no longer alike. An anchor is chosen by `locality`; docs/log.md has the experiment
that this rests on.

The second look is at the probe's images in a mirror, paler. A place keeps its content there, but neither its position
nor its light, so features of either do not agree.
"""

from collections.abc import Iterable, Iterator

import torch
from jaxtyping import Float, Float32
from torch import Tensor
from torch.nn import functional

from dinokit.health.probe import Look

CONTRAST, LIGHT = 0.7, 0.2  # of the second look, on normalised pixels
_TINY = 1e-4  # of the way to 1: less is rounding


def mirrored(
    batches: Iterable[Float32[Tensor, "chunk channel side side"]],
) -> Iterator[Float32[Tensor, "chunk channel side side"]]:
    """Turn normalised images into what the second look is at."""
    for images in batches:
        yield CONTRAST * images.flip(-1) + LIGHT


def places(look: Look, mirror: Look) -> dict[str, float]:
    """Return the signs of dense health, all of cosines between patches of one image.

    cls_patch: of patches with their CLS token; rises when patches forget what is local (DINOv3; not in our small runs).
    locality: how much more alike neighbours are than patches at least half the image apart, of what is possible.
    same_place: how much more alike one place is to itself in the mirror than to any place there, of what is possible.

    A map without three patches in a row has no distances to speak of: nothing is returned.
    """
    rows, columns = look.features.grid
    if max(rows, columns) < 3:
        return {}
    cls = functional.normalize(look.features.cls, dim=-1)
    patches = functional.normalize(look.features.patches, dim=-1)
    seen = functional.normalize(mirror.features.patches, dim=-1)
    seen = seen.reshape(len(seen), rows, columns, -1).flip(2).flatten(1, 2)  # every patch back at its place
    place = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
    apart = (place[:, None] - place).abs().amax(dim=-1)  # [patch, patch], by the larger of the two coordinates
    near, far = apart == 1, apart >= max(2, max(rows, columns) // 2)
    near_cosine, far_cosine, same, any_place = torch.zeros(4, dtype=torch.float64)
    for one, other in zip(patches, seen, strict=True):  # one image at a time: [patch, patch] of many would not fit
        cosines = one @ one.T
        near_cosine += cosines[near].double().mean()
        far_cosine += cosines[far].double().mean()
        across = one @ other.T
        same += across.diagonal().double().mean()
        any_place += across.double().mean()
    count = len(patches)
    return {
        "cls_patch": float((patches @ cls[..., None]).double().mean()),
        "locality": _beyond(near_cosine / count, far_cosine / count),
        "same_place": _beyond(same / count, any_place / count),
    }


def _beyond(value: Float[Tensor, ""], base: Float[Tensor, ""]) -> float:
    """Return how far a cosine is above another, as a share of the way to 1."""
    return float((value - base) / (1 - base).clamp_min(_TINY))
