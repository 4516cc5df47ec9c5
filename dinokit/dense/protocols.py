"""Which linear heads the papers train side by side on a frozen network, and for how long; and a quick grid of ours.

    dino       one head. ViTs up to width 384: CLS of the last four blocks; wider: CLS and the mean patch; else CLS.
               100 passes
    dinov2     52 heads: 13 rates x CLS of the last block or of four x without or with the mean patch. 12,500 steps
    dinov3     30 heads: 15 rates x weight decay 0 or 1e-5, on CLS. 10 passes
    quick      ours, right in a minute on a CPU: 12 heads, 1,000 steps on kept features, each number of which is brought
               to mean 0 and deviation 1 (of a network that has hardly learnt, 67 % of demo:fashion in place of 45)

Rates are those used: as published times batch / 256, at 1,024 images a step four times the numbers of the papers, of
DINOv2 those of its code. Source: DINO (arXiv:2104.14294), DINOv2 (arXiv:2304.07193) section 7.1, DINOv3
(arXiv:2508.10104) appendix D; the cosine is taken at every step, in DINO at every pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dinokit.core.messages import UserError, info
from dinokit.dense.grid import Layout, Member
from dinokit.dense.maps import frozen
from dinokit.images import intensity
from dinokit.models.classifier import Reading
from dinokit.models.features import Backbone
from dinokit.models.pixels import OwnPixels

NARROW = 384  # width up to which DINO reads four blocks


@dataclass(frozen=True)
class Protocol:
    """What the names of this module's docstring stand for."""

    lr: tuple[float, ...]
    blocks: tuple[int, ...] | None = (1,)  # null, with `mean_patch`: by the width
    mean_patch: tuple[bool, ...] = (False,)
    weight_decay: tuple[float, ...] = (0.0,)
    passes: int | None = None  # over the training images; null: iterations
    iterations: int = 0
    batch_size: int = 1024
    standard: bool = False  # each number of the kept features is brought to mean 0 and deviation 1


def _rates(*rates: float) -> tuple[float, ...]:
    """Bring rates that are written for 256 images a step to 1,024."""
    return tuple(4 * rate for rate in rates)


PROTOCOLS = {
    "dino": Protocol(lr=_rates(1e-3), blocks=None, passes=100),
    "dinov2": Protocol(
        lr=_rates(1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1),
        blocks=(1, 4),
        mean_patch=(False, True),
        iterations=12_500,
    ),
    "dinov3": Protocol(
        lr=_rates(*(digit * 10.0**power for power in range(-4, 1) for digit in (1, 2, 5))),
        weight_decay=(0.0, 1e-5),
        passes=10,
    ),
    "quick": Protocol(
        lr=(0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
        mean_patch=(False, True),
        iterations=1_000,
        batch_size=256,
        standard=True,
    ),
}


def heads_of(
    backbone: Backbone,
    protocol: Protocol,
    *,
    lr: Sequence[float] | None = None,
    weight_decay: Sequence[float] | None = None,
    blocks: Sequence[int] | None = None,
    mean_patch: Sequence[bool] | None = None,
) -> tuple[list[Member], Layout]:
    """Return the heads of a grid, and how what they read lies side by side; what is given takes the protocol's place.

    Raises:
        UserError: if blocks are given that heads cannot read of this network.
    """
    if mean_patch is not None and not mean_patch:
        raise UserError("mean_patch must be [false], [true], or both, got []")
    own = _by_width(backbone) if protocol.blocks is None else (protocol.blocks, protocol.mean_patch)
    asked, blocks, mean_patch = blocks is not None, blocks or own[0], mean_patch or own[1]
    if isinstance(backbone, OwnPixels):
        blocks = (1,)  # all blocks of pixels are the pixels
    widths = dict[int, tuple[int, int]]()
    for count in sorted(set(blocks)):
        try:
            widths[count] = widths_of(backbone, count)
        except UserError as error:
            if asked:
                raise UserError(f"heads cannot read {count} blocks of this model: {error}") from error
            info(f"{backbone.name or 'the model'}: no head on {count} blocks, {error}")
    if not widths:
        widths[1] = widths_of(backbone, 1)
    heads = [
        Member(reading=Reading(blocks=count, mean_patch=mean), lr=rate, weight_decay=decay)
        for count in widths
        for mean in sorted(set(mean_patch))
        for rate in sorted(set(lr or protocol.lr))
        for decay in sorted(set(weight_decay or protocol.weight_decay))
    ]
    dim, mean = widths[max(widths)]
    return heads, Layout(max(widths), dim, mean if any(mean_patch) else 0)


def _by_width(backbone: Backbone) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """Return what a head of DINO reads: by the width of a ViT, and of a network without four alike blocks CLS."""
    try:
        widths_of(backbone, 4)
    except UserError:
        return (1,), (False,)
    return ((4,), (False,)) if backbone.dim <= NARROW else ((1,), (True,))


def widths_of(backbone: Backbone, blocks: int) -> tuple[int, int]:
    """Return the width of the CLS of some last blocks, which is one, and that of the patches of the last."""
    side = intensity.multiple(backbone.pixels.size or 2 * backbone.patch_size, backbone.patch_size)
    with frozen(backbone) as device:
        layers = backbone.intermediate(torch.zeros(1, backbone.channels, side, side, device=device), blocks)
    widths = {layer.cls.shape[-1] for layer in layers}
    if len(widths) > 1:
        raise UserError(f"they have different widths, {', '.join(map(str, sorted(widths)))}")
    return widths.pop(), layers[-1].patches.shape[-1]
