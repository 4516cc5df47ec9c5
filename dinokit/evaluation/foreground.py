"""Foreground segmentation from a handful of masks: a logistic regression on frozen patches.

A patch is a sample if its cell is all background or all foreground (mean of the mask < 0.01 or > 0.99). C is the one
with the best average precision, each image judged by the others; the head is then fitted to all. Any class but the
first counts as foreground. Source: the foreground segmentation published with DINOv3 (arXiv:2508.10104) on nine images.
There the height is resized to 768 and C is 0.1 in the end; here the short side is, and the best C stays.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from dinokit.annotations.pairs import Pairs, open_pairs
from dinokit.core.messages import UserError, progress, warn
from dinokit.core.numbers import above, at_least
from dinokit.dense.foreground import Config as HeadConfig
from dinokit.dense.foreground import ForegroundHead
from dinokit.dense.heads import About, save_head
from dinokit.dense.logistic import solutions
from dinokit.dense.maps import Windows, encode, frozen, pad, prepared
from dinokit.metrics.precision import average_precision
from dinokit.models.features import Backbone

PATCHES = True  # what is measured are patches, not CLS
UNITS = {"AP": "%"}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which masks, and how large they are seen."""

    data: str  # a folder with images/ and masks/, or of PNGs with an alpha channel
    split: str | None = None  # of the data; null: train, or everything where there are no splits
    size: int = at_least(1, 768)  # pixels; the short side of every image is resized to it
    c: tuple[float, ...] = above(0, (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0))  # tried weights of the data


@dataclass(frozen=True)
class Samples:
    """The patches of one image whose cell is all of one kind."""

    patches: Float[Tensor, "sample width"]
    truth: Bool[Tensor, " sample"]


def run(backbone: Backbone, config: Config, out: Path | None) -> tuple[dict[str, float], dict[str, object]]:
    """Return `AP`, the mean over images each judged by the others, in percent, its spread, the C that gave it; of each.

    Args:
        out: folder that receives the head as `head/`.
    """
    head, about, numbers = learn(backbone, config)
    if out is not None:
        save_head(out / "head", head, about)
    return numbers, {"AP of each": about.details["AP"]}


def learn(backbone: Backbone, config: Config) -> tuple[ForegroundHead, About, dict[str, float]]:
    """Choose C, fit the head to all images, and return it with what it is and how good it was.

    C is the best of those that mark anything at all in the images left out: a ranking may be right although no
    probability is above a half, and nothing would be drawn.

    Raises:
        UserError: if there are fewer than two images, or no patch of one kind.
    """
    pairs = open_pairs(config.data, split=config.split, channels=backbone.channels, white=backbone.pixels.white)
    if len(pairs) < 2:
        raise UserError(f"expected masks of at least 2 images in {config.data}, got {len(pairs)}: one judges the other")
    samples, cs = _samples(backbone, pairs, size=config.size), sorted(set(config.c))
    table, marks = _left_out(samples, cs)  # [c, image], [c]
    if not table.shape[1]:
        raise UserError(f"no image of {config.data} can be judged by the others; give more masks of several things")
    best = int(numpy.where(marks | ~marks.any(), table.mean(axis=1), -1).argmax())
    c, found, every = cs[best], 100 * table[best], _joined(samples)
    if len(cs) > 1 and best in (0, len(cs) - 1):
        warn(f"C {c:g} is the {'largest' if best else 'smallest'} that was tried; --c takes others")
    (solution,) = solutions(every.patches, every.truth.long(), [c])
    if not solution.margin(every.patches)[every.truth].gt(0).any():
        warn("no patch has a probability above 0.5, not even of what was learnt from; give more masks, or a larger --c")
    head = ForegroundHead(HeadConfig(width=every.patches.shape[1])).to(every.patches.device)
    head = head.eval().requires_grad_(False)
    head.linear.weight.copy_(solution.weight.diff(dim=0))
    head.linear.bias.copy_(solution.bias.diff())
    windows = Windows(2 * config.size, config.size)  # an image of up to 1 : 2 is seen whole, a panorama by windows
    details = {"AP": found.tolist(), "c": c}
    about = About.of(backbone, "foreground", windows, short=config.size, details=details)
    return head, about, {"AP": float(found.mean()), "AP/std": float(found.std()), "C": c, "images": float(len(pairs))}


def _samples(backbone: Backbone, pairs: Pairs, *, size: int) -> list[Samples]:
    found, known, above = [], 0, 0
    with frozen(backbone):
        for index in progress(range(len(pairs)), len(pairs)):
            image, mask = pairs.read(index)
            counts = mask != pairs.missing
            known, above = known + int(counts.sum()), above + int((counts & (mask > 0)).sum())
            seen = prepared(image, backbone, short=size)
            (features,), _ = encode(backbone, seen)
            rows, columns = seen.shape[2:]
            share = cell_shares(mask, counts, size=(rows, columns), patch=backbone.patch_size)
            share = share.flatten().to(seen.device)
            pure = (share < 0.01) | (share > 0.99)  # no comparison with NaN holds
            found.append(Samples(features.patches[0].float()[pure], share[pure] > 0.99))
    if not known:
        raise UserError(f"no pixel of the masks of {pairs.name} counts: all are 255, which stands for no class")
    truth = torch.cat([one.truth for one in found])
    if truth.all() or not truth.any():
        kind, there = ("foreground", above) if not truth.any() else ("background", known - above)
        advice = (
            "give masks of larger things, or a larger size" if there else "0 is background, any other but 255 is not"
        )
        raise UserError(
            f"no patch of {pairs.name} is all {kind}: of the pixels that count {100 * there / known:.1f} % are {kind}; "
            f"{advice}"
        )
    return found


def cell_shares(
    mask: UInt8[numpy.ndarray, "height width"],
    counts: Bool[numpy.ndarray, "height width"],
    *,
    size: tuple[int, int],
    patch: int,
) -> Float[Tensor, "rows columns"]:
    """Return the share of foreground in the cell of every patch of an image resized to `size` and padded.

    NaN where a cell reaches beyond the image or into pixels that do not count.
    """
    known = torch.from_numpy(counts).float()
    layers = torch.stack([torch.from_numpy(mask > 0) * known, known])[None]  # [1, 2, height, width]
    layers = F.interpolate(layers, size=size, mode="bilinear", antialias=True)
    share, whole = F.avg_pool2d(pad(layers, patch)[0], patch)[0]  # [rows, columns] each
    return torch.where(whole > 1 - 1e-4, share, torch.nan)


def _left_out(
    samples: list[Samples], cs: list[float]
) -> tuple[Float[numpy.ndarray, "c image"], Bool[numpy.ndarray, " c"]]:
    """Judge every image by the others: its average precision for every c, and whether any foreground was marked.

    Images without foreground are left out.
    """
    columns, marks = [], numpy.zeros(len(cs), dtype=bool)
    for index in progress(range(len(samples)), len(samples)):
        mine, others = samples[index], _joined(samples[:index] + samples[index + 1 :])
        if not mine.truth.any() or others.truth.all() or not others.truth.any():
            continue
        truth, column = mine.truth.cpu().numpy(), list[float]()
        for place, solution in enumerate(solutions(others.patches, others.truth.long(), cs)):
            found = solution.margin(mine.patches).cpu().numpy()
            marks[place] |= bool((found[truth] > 0).any())
            column.append(average_precision(truth, found))
        columns.append(column)
    return numpy.array(columns, dtype=numpy.float64).reshape(-1, len(cs)).T, marks


def _joined(samples: list[Samples]) -> Samples:
    return Samples(torch.cat([one.patches for one in samples]), torch.cat([one.truth for one in samples]))
