"""What dense heads learn from, step by step.

Published protocols see every image once per pass, in a new order each, as crops that the backbone encodes anew at every
step (`crops`). The quick ones encode every image once, keep a random share of its patches, and learn from those alone
(`gathered`, `patches`): the loss is of patches, not of pixels, and a step costs a thousandth.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy
import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional as F

from dinokit.annotations.depths import Depths
from dinokit.annotations.pairs import Pairs
from dinokit.core.log import progress
from dinokit.core.order import Passes
from dinokit.core.seed import generator
from dinokit.dense.embedding import normalised
from dinokit.dense.maps import Frame, Layers, encode, frozen, pad, prepared
from dinokit.images import intensity
from dinokit.models.features import Backbone, Features

Annotated = Pairs | Depths  # images with a value for every pixel: one split of masks or of depths


@dataclass(frozen=True)
class Batch:
    """What the heads see at a step, and what they should say."""

    features: tuple[Features, ...]  # of each layer
    frame: Frame | None  # where the images lie in them; null: the targets are of patches
    targets: Shaped[Tensor, "batch rows columns"]


Sample = Callable[[int], Batch]  # step -> its batch


def crops(
    backbone: Backbone,
    train: Annotated,
    cut: Callable[[intensity.Image, numpy.ndarray, tuple[int, ...]], tuple[Tensor, Tensor]],
    *,
    layers: Layers,
    batch_size: int,
    seed: int,
) -> Sample:
    """Return what draws and encodes the crops of a step: every image once per pass, in a new order each.

    Args:
        cut: an image, its values and a key -> pixels as before normalisation, missing ones NaN, and targets.
    """

    order = Passes(len(train), seed)

    def sample(step: int) -> Batch:
        images, targets = [], []
        for place in range(step * batch_size, (step + 1) * batch_size):
            turn, position = divmod(place, len(train))
            pixels, target = cut(*train.read(int(order.indices(place, 1)[0])), (seed, turn, position))
            images.append(pixels)
            targets.append(target)
        # missing pixels are 0 once normalised
        pixels = normalised(backbone, torch.stack(images)).nan_to_num_(0.0)
        with frozen(backbone) as device:
            features, frame = encode(backbone, pixels.to(device), layers=layers)
        return Batch(features, frame, torch.stack(targets).to(device))

    return sample


def gathered(
    backbone: Backbone,
    train: Annotated,
    label: Callable[[Float[Tensor, "rows columns pixel"]], tuple[Tensor, Tensor]],
    *,
    indices: Sequence[int],
    short: int | None,
    missing: float,
    most: int,
    seed: int,
) -> tuple[Float[Tensor, "known width"], Shaped[Tensor, " known"]]:
    """Encode every image once and keep a random share of its patches whose label counts.

    Args:
        label: the values of the pixels of every patch -> its label, and whether it counts.
        missing: value of what an image lacks to whole patches.
        most: patches that are kept, of all images together.
    """
    share, patch = max(1, most // len(indices)), backbone.patch_size
    bank, labels = [], []
    with frozen(backbone):
        for index in progress(indices, len(indices)):
            image, values = train.read(index)
            seen = prepared(image, backbone, short=short)
            wide = torch.from_numpy(values)[None, None].float()
            wide = F.interpolate(wide, size=tuple(seen.shape[2:]), mode="nearest-exact")
            whole = pad(wide - missing, patch)[0][0, 0] + missing
            found, counts = label(whole.unfold(0, patch, patch).unfold(1, patch, patch).flatten(2))
            (features,), _ = encode(backbone, seen)
            known = features.maps[0].float().permute(1, 2, 0)[counts.to(seen.device)]  # [known, width]
            rows = torch.from_numpy(generator(seed, index).permutation(len(known))[:share])
            bank.append(known[rows.to(seen.device)])
            labels.append(found[counts][rows].to(seen.device))
    return torch.cat(bank), torch.cat(labels)


def patches(
    bank: Float[Tensor, "known width"], labels: Shaped[Tensor, " known"], *, batch_size: int, seed: int
) -> Sample:
    """Return what draws the patches of a step from a bank, as one row of an image."""

    def sample(step: int) -> Batch:
        rows = torch.from_numpy(generator(seed, step).integers(0, len(bank), batch_size)).to(bank.device)
        return Batch((Features.from_maps(bank[rows].T[None, :, None]),), None, labels[rows][None, None])

    return sample
