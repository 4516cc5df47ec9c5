"""What dense heads learn from a split: crops that are encoded at every step, or patches that are encoded once.

Published protocols see every image once per pass, in a new order each, as crops that the backbone encodes anew at every
step (`cropped`). The quick ones encode every image once, keep a random share of its patches, and learn from those alone
(`gathered`, `drawn`): the loss is of patches, not of pixels, and a step costs a thousandth.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional as F

from dinokit.annotations.pairing import Annotated
from dinokit.core.messages import UserError, progress
from dinokit.core.seed import Passes, generator
from dinokit.dense.fit import Batch, Loss, Member, Sample, Training, fit
from dinokit.dense.maps import Layers, encode, frozen, pad, prepared
from dinokit.images import intensity
from dinokit.models.features import Backbone, Features


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What heads learn from: a split, how it is seen, and what its values say."""

    train: Annotated
    indices: Sequence[int]  # of the images whose patches are kept
    # an image, its values and a key -> pixels as before normalisation, missing ones NaN, and targets
    cut: Callable[[intensity.Image, numpy.ndarray, tuple[int, ...]], tuple[Tensor, Tensor]]
    label: Callable[[Float[Tensor, "rows columns pixel"]], tuple[Tensor, Tensor]]  # of a patch, and whether it counts
    loss: Loss
    layers: Layers = 1
    short: int | None  # pixels; short side to which images are resized; null: native size
    most: int  # patches that are kept, of all images together
    empty: str  # what is said where no patch counts
    seed: int


def learn(
    backbone: Backbone,
    members: Sequence[Member],
    lesson: Lesson,
    training: Training,
    *,
    crops: int,
    patches: int | None,
    folder: Path | None,
    settings: Sequence[Any],
) -> Sequence[Member]:
    """Train the heads in place on crops, or on patches that are encoded once.

    Args:
        crops: of a step.
        patches: of a step, in place of a crop; None: crops.
        folder: keeps the state, from which the same call continues; None keeps nothing.
        settings: plain values that say how the data is seen.
    """
    stamp = {"settings": [*settings]} | ({} if folder is None else {"data": lesson.train.digest()})
    if patches is None:
        sample = cropped(backbone, lesson, batch_size=crops)
    else:
        sample = drawn(*gathered(backbone, lesson), batch_size=crops * patches, seed=lesson.seed)
    fit(backbone, members, training, sample=sample, loss=lesson.loss, folder=folder, stamp=stamp)
    return members


Crops = Callable[[int], tuple[Float[Tensor, "batch channel height width"], Shaped[Tensor, "batch rows columns"]]]


def crops(backbone: Backbone, lesson: Lesson, *, batch_size: int) -> Crops:
    """Return what draws the crops of a step, normalised, and their targets.

    Every image comes once per pass, in a new order each.
    """
    train = lesson.train
    order = Passes(len(train), lesson.seed)

    def of_step(step: int) -> tuple[Tensor, Tensor]:
        images, targets = [], []
        for place in range(step * batch_size, (step + 1) * batch_size):
            turn, position = divmod(place, len(train))
            pixels, target = lesson.cut(*train.read(int(order.indices(place, 1)[0])), (lesson.seed, turn, position))
            images.append(pixels)
            targets.append(target)
        # missing pixels are 0 once normalised
        return intensity.normalised(torch.stack(images), backbone.pixels).nan_to_num_(0.0), torch.stack(targets)

    return of_step


def cropped(backbone: Backbone, lesson: Lesson, *, batch_size: int) -> Sample:
    """Return what draws and encodes the crops of a step."""
    drawn = crops(backbone, lesson, batch_size=batch_size)

    def sample(step: int) -> Batch:
        pixels, targets = drawn(step)
        with frozen(backbone) as device:
            features, frame = encode(backbone, pixels.to(device), layers=lesson.layers)
        return Batch(features, frame, targets.to(device))

    return sample


def gathered(backbone: Backbone, lesson: Lesson) -> tuple[Float[Tensor, "known width"], Shaped[Tensor, " known"]]:
    """Encode every image once and keep a random share of its patches whose label counts, of which there must be one."""
    share, patch = max(1, lesson.most // len(lesson.indices)), backbone.patch_size
    bank, labels = [], []
    with frozen(backbone):
        for index in progress(lesson.indices, len(lesson.indices)):
            image, values = lesson.train.read(index)
            seen = prepared(image, backbone, short=lesson.short)
            wide = torch.from_numpy(values)[None, None].float()
            wide = F.interpolate(wide, size=tuple(seen.shape[2:]), mode="nearest-exact")
            whole = pad(wide - lesson.train.missing, patch)[0][0, 0] + lesson.train.missing
            found, counts = lesson.label(whole.unfold(0, patch, patch).unfold(1, patch, patch).flatten(2))
            (features,), _ = encode(backbone, seen)
            known = features.maps[0].float().permute(1, 2, 0)[counts.to(seen.device)]  # [known, width]
            rows = torch.from_numpy(generator(lesson.seed, index).permutation(len(known))[:share])
            bank.append(known[rows.to(seen.device)])
            labels.append(found[counts][rows].to(seen.device))
    if not any(map(len, labels)):
        raise UserError(lesson.empty)
    return torch.cat(bank), torch.cat(labels)


def drawn(
    bank: Float[Tensor, "known width"], labels: Shaped[Tensor, " known"], *, batch_size: int, seed: int
) -> Sample:
    """Return what draws the patches of a step from a bank, as one row of an image."""

    def sample(step: int) -> Batch:
        rows = torch.from_numpy(generator(seed, step).integers(0, len(bank), batch_size)).to(bank.device)
        return Batch((Features.from_maps(bank[rows].T[None, :, None]),), None, labels[rows][None, None])

    return sample
