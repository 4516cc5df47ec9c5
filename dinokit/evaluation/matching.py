"""Matching without training: does a point look most like its own image in another picture?

    keypoints    SPair-71k, or a list of pairs: PCK, the share of points found within alpha of the object's longer side
    surfaces     NAVI: every place of the object is matched, the 1,000 surest are kept, and their error is measured in
                 3D: recall below 1, 2 and 5 cm and the mean of the three

An image, of NAVI its object alone, is padded with white to a square, and resized to 64 patches (NAVI: 32) a side.
Places every `stride` pixels of it are candidates; the features there lie between those of the patches.
Source: probe3d (arXiv:2404.08636), DINOv3 (arXiv:2508.10104, section 6.1.2 and appendix D). There points are sampled
with aligned corners, which shifts them by up to half a patch; here the centre of a patch is its centre. As published,
the better of the patches with and without the final norm counts: on these very pairs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from dinokit.annotations.matching import PointPair, open_matching, read_both
from dinokit.annotations.navi import Surface, ViewPair
from dinokit.core.files import write_atomic
from dinokit.core.messages import UserError, progress
from dinokit.core.numbers import above, at_least
from dinokit.core.order import evenly
from dinokit.dense.maps import encode, frozen, prepared
from dinokit.dense.matching import Points, judged, lattice, nearest, sampled
from dinokit.images import intensity
from dinokit.metrics.matching import pck, recall, right
from dinokit.models.features import Backbone

PATCHES = True  # what is measured are patches, not CLS
UNITS = {"PCK": "%", "recall": "%"}
SIDE, SIDE_OF_OBJECTS = 64, 32  # patches
CENTIMETRES = (1, 2, 5)
SHOWN = 2  # of CENTIMETRES: what is right in a drawing
DRAWN = 12  # pairs
LATEST = 8  # images whose patches are kept: lists ask for one several times in a row


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which pairs, and how they are seen."""

    data: str  # SPair-71k, NAVI, or a list of pairs with points: pairs.jsonl or .csv
    split: str | None = None  # of SPair-71k: trn, val, test; null: test
    size: int | None = at_least(1, None)  # pixels, side of the square; null: 64 patches, of NAVI 32
    layer: int | None = at_least(0, None)  # index of the block whose patches are compared; null: the last
    norm: bool | None = None  # pass them through the final norm; null: try both, the better counts
    stride: int = at_least(1, 4)  # pixels from one candidate to the next
    alpha: tuple[float, ...] = above(0, (0.1,))  # PCK: reach, share of the longer side; the first decides about norm
    by: Literal["box", "image"] | None = None  # PCK: whose longer side; null: the box's if there are boxes
    keep: int = at_least(1, 1_000)  # NAVI: matches of a pair, those of the highest cosine
    limit: int | None = at_least(1, None)  # pairs of each category, evenly spaced; null: all. probe3d: 200 of SPair-71k


@dataclass(frozen=True)
class Matches:
    """What was found for a pair, in pixels of its images, whole numbers at the centres."""

    images: tuple[Path, Path]
    points: tuple[Points, Points]
    right: Bool[numpy.ndarray, " point"]


@dataclass(frozen=True)
class Outcome:
    """What one kind of features gives."""

    numbers: dict[str, float]  # the first decides
    each: dict[str, Any]  # by category
    matches: list[Matches]


def run(backbone: Backbone, config: Config, out: Path | None) -> tuple[dict[str, float], dict[str, object]]:
    """Match all pairs; return PCK or recall in percent, whether the norm was used, and the counts.

    PCK is the mean over categories, `/pair` the same with every pair of a category counting alike.

    Args:
        out: folder that receives drawings of a few pairs.
    """
    measure = _opened(config)
    norms = (True, False) if config.norm is None else (config.norm,)
    with frozen(backbone):
        outcomes = {norm: measure(backbone, norm) for norm in norms}
    norm = max(outcomes, key=lambda one: next(iter(outcomes[one].numbers.values())))
    best = outcomes[norm]
    result = best.numbers | {
        "norm": float(norm),
        "pairs": float(len(best.matches)),
        "points": float(sum(len(one.right) for one in best.matches)),
    }
    if out is not None:
        for index in evenly(DRAWN, len(best.matches)).tolist():
            one = best.matches[index]
            both = read_both(one.images, backbone.channels, backbone.pixels.white)
            with write_atomic(out / f"{index:05d}.png") as temporary:
                judged(both, one.points, one.right).save(temporary, "PNG")
    return result, {"each": best.each}


def _opened(config: Config) -> Callable[[Backbone, bool], Outcome]:
    pairs: Sequence[PointPair | ViewPair] = open_matching(config.data, split=config.split)
    points = [pair for pair in pairs if isinstance(pair, PointPair)]
    # settings that mean nothing for these pairs
    senseless = {"split": "NAVI has no splits", "alpha": "NAVI is judged in centimetres", "by": "NAVI has no boxes"}
    usual = Config(data=config.data)
    for name, why in senseless.items() if not points else (("keep", "it is of NAVI"),):
        if getattr(config, name) != getattr(usual, name):
            raise UserError(f"{name} says nothing about {config.data}: {why}; leave it out")
    kinds: dict[str, list[int]] = {}
    for index, pair in enumerate(pairs):
        kinds.setdefault(pair.name, []).append(index)
    # so many pairs of each category, evenly spaced, in their order
    chosen = sorted(each[place] for each in kinds.values() for place in evenly(config.limit, len(each)).tolist())
    if points:
        return partial(_keypoints, [points[index] for index in chosen], config)
    views = [pair for pair in pairs if isinstance(pair, ViewPair)]
    return partial(_surfaces, [views[index] for index in chosen], config)


def _keypoints(pairs: Sequence[PointPair], config: Config, backbone: Backbone, norm: bool) -> Outcome:
    by = config.by or ("image" if pairs[0].box is None else "box")
    if by == "box" and pairs[0].box is None:
        raise UserError(f"the pairs of {config.data} have no box_b; add it, or measure by the image: --by image")
    size = _size(config, backbone, patches=SIDE)
    candidates = lattice(max(1, size // config.stride))
    hits: dict[float, list[Bool[numpy.ndarray, " point"]]] = {alpha: [] for alpha in config.alpha}
    matches = []
    latest: dict[Path, Float[Tensor, "dim rows columns"]] = {}

    def seen(path: Path, image: intensity.Image) -> Float[Tensor, "dim rows columns"]:
        maps = latest.pop(path, None)
        latest[path] = _maps(backbone, image, config, size=size, norm=norm) if maps is None else maps
        if len(latest) > LATEST:
            del latest[next(iter(latest))]
        return latest[path]

    for pair in progress(pairs, len(pairs)):
        first, second = pair.read(backbone.channels, backbone.pixels.white)
        asked = (torch.from_numpy(pair.points[0]) + 0.5) / max(first.shape[1:])
        index, _ = nearest(sampled(seen(pair.images[0], first), asked), seen(pair.images[1], second), candidates)
        found = (candidates[index.cpu()] * max(second.shape[1:]) - 0.5).numpy()
        side = float(max(second.shape[1:]))
        if by == "box" and pair.box is not None:
            left, top, end, bottom = pair.box
            side = max(end - left, bottom - top)
        for alpha, each in hits.items():
            each.append(right(found, pair.points[1], reach=alpha * side))
        matches.append(Matches(pair.images, (pair.points[0], found), hits[config.alpha[0]][-1]))
    names = [pair.name for pair in pairs]
    scores = {f"PCK@{alpha:g}": pck(each, names) for alpha, each in hits.items()}
    numbers = {name: one.by_point for name, one in scores.items()}
    numbers |= {f"{name}/pair": one.by_pair for name, one in scores.items()}
    return Outcome(numbers, {name: one.each for name, one in scores.items()}, matches)


def _surfaces(pairs: Sequence[ViewPair], config: Config, backbone: Backbone, norm: bool) -> Outcome:
    size = _size(config, backbone, patches=SIDE_OF_OBJECTS)
    limits = {f"recall@{cm}cm": 10.0 * cm for cm in CENTIMETRES}
    matches, each = [], dict[str, list[list[float]]]()
    for pair in progress(pairs, len(pairs)):
        first, second = (
            _object(backbone, view.read(backbone.channels, backbone.pixels.white), config, size=size, norm=norm)
            for view in pair.views
        )
        asked = sampled(first.maps, first.places, mode="bicubic")
        index, cosine = nearest(asked, second.maps, second.places, mode="bicubic")
        kept = cosine.topk(min(config.keep, len(cosine))).indices.cpu().numpy()
        chosen = index.cpu().numpy()[kept]
        errors = numpy.linalg.norm(pair.carry(first.surface[kept]) - second.surface[chosen], axis=1)
        each.setdefault(pair.name, []).append([recall(errors, limit) for limit in limits.values()])
        images = pair.views[0].image, pair.views[1].image
        matches.append(Matches(images, (first.pixels[kept], second.pixels[chosen]), errors < 10 * SHOWN))
    table = numpy.concatenate([numpy.array(rows) for rows in each.values()])  # [pair, limit]
    numbers = {"recall": float(table.mean())} | dict(zip(limits, table.mean(axis=0).tolist(), strict=True))
    return Outcome(numbers, {name: float(numpy.mean(rows)) for name, rows in each.items()}, matches)


@dataclass(frozen=True)
class Object:
    """The patches of an object of NAVI and its candidates."""

    maps: Float[Tensor, "dim rows columns"]
    places: Float[Tensor, "place 2"]  # shares of the square
    pixels: Points  # of the image
    surface: Float[numpy.ndarray, "place 3"]  # millimetres, in the camera's frame


def _object(backbone: Backbone, seen: Surface, config: Config, *, size: int, norm: bool) -> Object:
    left, top, end, bottom = seen.box
    crop = seen.image[:, top:bottom, left:end]
    places = lattice(max(1, size // config.stride))
    pixels = places.numpy() * max(crop.shape[1:]) - 0.5 + (left, top)
    surface, there = seen.at(pixels)
    there &= ((pixels > (left - 0.5, top - 0.5)) & (pixels < (end - 0.5, bottom - 0.5))).all(axis=1)  # no padding
    if not there.any():
        raise UserError(f"no candidate lies on an object of {config.data}; take a smaller stride than {config.stride}")
    maps = _maps(backbone, crop, config, size=size, norm=norm)
    return Object(maps, places[torch.from_numpy(there)], pixels[there], surface[there])


def _maps(
    backbone: Backbone, image: intensity.Image, config: Config, *, size: int, norm: bool
) -> Float[Tensor, "dim rows columns"]:
    """Return the patches of an image, padded with white at the right and below to a square."""
    height, width = image.shape[1:]
    side, white = max(height, width), 255 if image.dtype == torch.uint8 else 1
    square = F.pad(image, (0, side - width, 0, side - height), value=white)
    layers = 1 if config.layer is None else (config.layer,)
    (features,), _ = encode(backbone, prepared(square, backbone, short=size), layers=layers, norm=norm)
    return features.maps[0].float()


def _size(config: Config, backbone: Backbone, *, patches: int) -> int:
    patch = backbone.patch_size
    size = config.size if config.size is not None else patches * patch
    if size % patch:
        near = max(patch, size // patch * patch)
        raise UserError(f"size {size} is not a multiple of the patch size {patch}; use {near} or {near + patch}")
    return size
