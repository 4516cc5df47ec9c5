"""Multi-crop views: two global crops and several local ones of every image, each distorted in its own way.

All randomness of a batch is one table of uniform numbers per step, one row per position in the global batch; a rank or
a loader process computes its own rows of it directly: the views of a sample are a function of (seed, step, position).

Images of uint8 are rounded to it once, after the geometry; float32 stay so. A float image beyond [0, 1] is brought to
[0, 1] by its own range first (images/intensity.py), distorted as all others, and brought back: nothing is cut off, and
"brighter" means the same share of the range for a photo and for a thermal image.
Source: SwAV (arXiv:2006.09882, multi-crop), DINO (arXiv:2104.14294, section 3.1), DINOv2 and DINOv3 recipes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Shaped
from torch import Tensor

from dinokit.core.messages import UserError
from dinokit.core.numbers import above, at_least, between
from dinokit.core.seed import generator
from dinokit.images import intensity
from dinokit.images.intensity import Pixels
from dinokit.views import augment, crop, noise, quick

_STREAM = 1  # keeps these random numbers apart from the order (0), the masks (2) and the replacements (3)
_SIZES, _NOISE = 5, 6  # those of the sizes and of the noise
# values distorted at a time: on a CPU 0.5 MB of float32 stay near the core without too many small calls
_CHUNK = {"cpu": 1 << 17}
_LARGE_CHUNK = 1 << 27
_AS_THEY_ARE = Pixels((0.0,), (1.0,))

Batch = TypeVar("Batch", bound="Views | Cut")
_Kind = tuple[Float[np.ndarray, "_ _ draw"], tuple[float, float], int]  # draws, share of the image, side


@dataclass(frozen=True)
class Views:
    """What a training step sees of a batch; crops are normalised float32."""

    global_crops: Float[Tensor, "view batch channel height width"]
    local_crops: Float[Tensor, "local batch channel small_height small_width"]
    masks: Bool[Tensor, "view batch patch"] | None  # True where HIDDEN
    anchor_crops: Float[Tensor, "view batch channel large_height large_width"] | None = None  # for the Gram teacher

    def on(self, device: torch.device) -> "Views":
        """Copy to a device."""
        return with_each(self, lambda part: part.to(device, non_blocking=True))


@dataclass(frozen=True)
class Cut:
    """The crops of a batch before their distortion, and all that decides it; a quarter of the memory of Views.

    Crops are uint8, or float32 with 1.0 = white if some image is deeper.
    """

    config: "Config"
    pixels: Pixels
    global_crops: Shaped[Tensor, "view batch channel height width"]
    local_crops: Shaped[Tensor, "local batch channel small_height small_width"]
    anchor_crops: Shaped[Tensor, "view batch channel large_height large_width"] | None
    draws: Float64[np.ndarray, "crop batch draw"]  # of the distortions and of noise if there is any, global crops first
    ranges: Float32[Tensor, "batch 2"] | None  # (low, high) of every image; null: all [0, 1]
    masks: Bool[Tensor, "view batch patch"] | None = None  # True where HIDDEN

    def on(self, device: torch.device) -> Views:
        """Copy to a device and distort there."""
        there = with_each(self, lambda part: part.to(device, non_blocking=True))
        ranges = None if self.ranges is None else self.ranges.to(device)
        whole, small = (torch.empty(crops.shape, device=device) for crops in (self.global_crops, self.local_crops))
        _distort(there.global_crops[0], self.draws[0], self.config.first, self.pixels, ranges, out=whole[0])
        _distort(there.global_crops[1], self.draws[1], self.config.second, self.pixels, ranges, out=whole[1])
        flat = self.draws[2:].reshape(-1, self.draws.shape[2])  # [local * sample, draw]
        repeated = None if ranges is None else ranges.repeat(self.config.local_count, 1)
        local_crops = there.local_crops.flatten(0, 1)
        _distort(local_crops, flat, self.config.local, self.pixels, repeated, out=small.flatten(0, 1))
        anchors = None
        if there.anchor_crops is not None:
            crops = intensity.to_unit(there.anchor_crops.contiguous())
            anchors = torch.stack([_normalised(view, self.pixels, ranges) for view in crops])
        return Views(whole, small, there.masks, anchors)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sides of the crops of a step, in pixels."""

    global_size: int
    local_size: int
    anchor_size: int = 0  # 0 = none
    share: float = above(0, 1.0)  # of the steps, relative to the others'


@dataclass(frozen=True, kw_only=True)
class Config:
    """Multi-crop augmentation; the defaults are those of DINOv2 and DINOv3 as published, at 224 and 96 pixels."""

    global_size: int = at_least(1, 224)  # pixels; side of the two global crops, a multiple of the patch size
    global_scale: tuple[float, float] = between(0, 1, (0.32, 1.0), without=0, rising=True)  # of the image area
    local_count: int = at_least(0, 8)  # local crops per image; 0 = none
    local_size: int = at_least(1, 96)  # pixels; a multiple of the patch size
    local_scale: tuple[float, float] = between(0, 1, (0.05, 0.32), without=0, rising=True)  # of the image area
    ratio: tuple[float, float] = above(0, (3 / 4, 4 / 3), rising=True)  # width / height of the window in the image
    kernel: crop.Kernel = "bicubic"  # of the resizing; bilinear is smoother, which helps on images of few dozen pixels
    fit: crop.Fit = "retry"  # of a window that sticks out: drawn again (torchvision's rule), or clipped to the image
    flip: float = between(0, 1, 0.5)  # probability of mirroring a crop left to right
    rotate: float = between(0, 180, 0.0)  # degrees by which crops are turned at most; not in the published recipes
    anchor_size: int = at_least(0, 0)  # pixels; side of undistorted global crops for a Gram anchor; 0 = none
    sizes: tuple[Sizes, ...] = ()  # every step draws one of these instead of the three sizes above; empty = it does not
    first: augment.Config = field(default_factory=lambda: augment.published()[0])  # distortion of global crop 1
    second: augment.Config = field(default_factory=lambda: augment.published()[1])  # distortion of global crop 2
    local: augment.Config = field(default_factory=lambda: augment.published()[2])  # distortion of the local crops

    def __post_init__(self) -> None:
        if len({size.anchor_size > 0 for size in self.sizes}) > 1:
            raise UserError("views.sizes must have an anchor_size each, or none of them")
        self.variants()  # each is checked as it is made
        kinds = [("global_size", self.global_size, max(self.first.blur_taps, self.second.blur_taps))]
        kinds += [("local_size", self.local_size, self.local.blur_taps)] if self.local_count else []
        for name, size, taps in kinds:
            if size <= taps // 2:
                raise UserError(f"{name} {size} is too small for blur_taps {taps}; use at least {taps // 2 + 1} pixels")

    @property
    def min_side(self) -> int:
        """The short side in pixels below which an image would have to be enlarged for its smallest crops."""
        sides = []
        for config in self.variants():
            sides.append(max(config.global_size, config.anchor_size) / math.sqrt(config.global_scale[0]))
            if config.local_count:
                sides.append(config.local_size / math.sqrt(config.local_scale[0]))
        return math.ceil(max(sides))

    def variants(self) -> tuple["Config", ...]:
        """Return a configuration of one size for each of `sizes`; itself if there are none."""
        if not self.sizes:
            return (self,)
        return tuple(
            replace(self, sizes=(), global_size=s.global_size, local_size=s.local_size, anchor_size=s.anchor_size)
            for s in self.sizes
        )

    def at(self, seed: int, step: int) -> "Config":
        """Return what this step makes, the same on all ranks."""
        if not self.sizes:
            return self
        edges = np.cumsum([size.share for size in self.sizes])
        drawn = generator(seed, _SIZES, step).random() * edges[-1]
        return self.variants()[int(np.searchsorted(edges[:-1], drawn, side="right"))]


def check_sizes(config: Config, *, patch_size: int, whole_locals: bool = True) -> None:
    """Check that crops divide into patches; a UserError names the nearest sizes that do.

    Args:
        whole_locals: whether local ones must; else any of a patch or more will do.
    """
    for variant in config.variants():
        sizes = {"global_size": variant.global_size}
        sizes |= {"local_size": variant.local_size} if variant.local_count else {}
        sizes |= {"anchor_size": variant.anchor_size} if variant.anchor_size else {}
        for name, size in sizes.items():
            if name == "local_size" and not whole_locals and size < patch_size:
                raise UserError(f"local_size {size} is less than the patch size {patch_size}; use at least that")
            if size <= 0 or (size % patch_size and (whole_locals or name != "local_size")):
                below, above = size // patch_size * patch_size, (size // patch_size + 1) * patch_size
                advice = f"use {below} or {above}" if below > 0 else f"use {above}"
                raise UserError(f"{name} {size} is not a multiple of the patch size {patch_size}; {advice}")


def cut(images: Sequence[Tensor], config: Config, pixels: Pixels, *, seed: int, step: int, first: int) -> Cut:
    """Cut the crops of a batch and draw their distortions.

    The anchors are the windows of the global crops once more, at `anchor_size`. Both are resampled from the image
    itself, so that asking for anchors does not change the global crops; the DINOv3 code resamples its global crops from
    the larger ones.

    Args:
        images: uint8 or float32 [channel, height, width], of any sizes.
        pixels: normalisation of the crops.
        first: position of the first image in the global batch of this step.
    """
    table = _table((seed, _STREAM, step), first, len(images), (2 + config.local_count, crop.DRAWS + augment.DRAWS))
    geometry, distortion = table[..., : crop.DRAWS], table[..., crop.DRAWS :]  # [crop, sample, draw]
    if any(kind.noise is not None for kind in (config.first, config.second, config.local)):
        spots = _table((seed, _NOISE, step), first, len(images), (2 + config.local_count, noise.DRAWS))
        distortion = np.concatenate([distortion, spots], axis=2)
    bounds = [intensity.value_range(image) for image in images]
    ranges = None if all(each == (0, 1) for each in bounds) else torch.tensor(bounds)
    images = [
        image if (low, high) == (0, 1) else (image - low) / (high - low)
        for image, (low, high) in zip(images, bounds, strict=True)
    ]
    kinds = [
        (geometry[:2], config.global_scale, config.global_size),
        (geometry[2:], config.local_scale, config.local_size),
    ]
    if config.anchor_size:
        kinds.append((geometry[:2], config.global_scale, config.anchor_size))
    global_crops, local_crops, *anchors = _cut(images, kinds, config)
    return Cut(config, pixels, global_crops, local_crops, anchors[0] if anchors else None, distortion, ranges)


def _table(
    key: tuple[int, ...], first: int, samples: int, shape: tuple[int, int]
) -> Float64[np.ndarray, "crop sample draw"]:
    """Return some rows of a step's table of uniform numbers."""
    generate, draws = generator(*key), math.prod(shape)
    assert isinstance(generate.bit_generator, np.random.PCG64)
    generate.bit_generator.advance(first * draws)  # one 64-bit number per uniform: straight to this row of the table
    return generate.random((samples, draws)).reshape(samples, *shape).transpose(1, 0, 2)


def _cut(images: Sequence[Tensor], kinds: Sequence[_Kind], config: Config) -> list[Tensor]:
    """Cut several kinds of crops; uint8, unless there are float images among them: then all as float32, 1.0 = white."""
    depths = sorted({image.dtype for image in images}, key=str)
    if len(depths) > 1:  # each type by itself, so that the crops of an image do not depend on its neighbours
        parts = [[row for row, image in enumerate(images) if image.dtype == each] for each in depths]
        apart = [
            _cut([images[row] for row in part], [(draws[:, part], scale, size) for draws, scale, size in kinds], config)
            for part in parts
        ]
        order = torch.tensor([row for part in parts for row in part]).argsort()
        return [torch.cat([intensity.to_unit(crops) for crops in each], dim=1)[:, order] for each in zip(*apart)]
    height, width = (np.array([image.shape[axis] for image in images]) for axis in (1, 2))
    found = []
    for geometry, scale, size in kinds:
        windows = [
            crop.boxes(view, height=height, width=width, scale=scale, ratio=config.ratio, fit=config.fit)
            for view in geometry
        ]
        boxes = np.reshape(windows, (*geometry.shape[:2], 4))  # spelled out, for there may be no views at all
        canvas = crop.canvas(size, rotate=config.rotate) if config.rotate else size
        boxes = crop.grown(boxes, canvas / size) if config.rotate else boxes
        found.append(crop.Kind(boxes, crop.flips(geometry, probability=config.flip), canvas))
    cuts = crop.cut_kinds(images, found, kernel=config.kernel)
    if config.rotate == 0:
        return cuts
    return [
        crop.turn(crops, crop.angles(geometry, rotate=config.rotate), size=size)
        for crops, (geometry, _, size) in zip(cuts, kinds, strict=True)
    ]


def _distort(
    crops: Shaped[Tensor, "sample channel height width"],
    uniforms: Float[np.ndarray, "sample draw"],
    distortion: augment.Config,
    pixels: Pixels,
    ranges: Float32[Tensor, "sample 2"] | None,
    *,
    out: Float32[Tensor, "sample channel height width"],
) -> None:
    """Distort and normalise, a few images at a time: the chain makes some 30 passes, best over what is in the cache."""
    parameters = augment.draw(distortion, uniforms, channels=crops.shape[1])
    compiled = quick.module("compiled") if out.is_cpu and distortion.chain == "exact" else None
    if compiled is not None:
        done, bounds = (pixels, ranges) if distortion.noise is None else (_AS_THEY_ARE, None)
        within = None if bounds is None else bounds.numpy()
        compiled.distorted(crops.numpy(), parameters, distortion, done, within, out=out.numpy())
        if distortion.noise is not None:
            noise.add(out, uniforms[:, augment.DRAWS :], distortion.noise)
            out.copy_(_normalised(out, pixels, ranges))
        return
    pieces = min(len(crops), math.ceil(crops.numel() / _CHUNK.get(crops.device.type, _LARGE_CHUNK)))
    for rows in np.array_split(augment.alike(parameters), pieces) if pieces else []:
        chosen = torch.from_numpy(rows).to(crops.device)
        values = intensity.to_unit(crops.index_select(0, chosen).contiguous())
        values = augment.apply(values, parameters.rows(rows), distortion)
        if distortion.noise is not None:
            values = noise.add(values, uniforms[rows, augment.DRAWS :], distortion.noise)
        values = _normalised(values, pixels, None if ranges is None else ranges[chosen])
        if out.is_cpu:
            out.numpy()[rows] = values.numpy()  # three times as fast as index_copy_
        else:
            out.index_copy_(0, chosen, values)


def _normalised(
    values: Float32[Tensor, "sample channel height width"], pixels: Pixels, ranges: Float32[Tensor, "sample 2"] | None
) -> Float32[Tensor, "sample channel height width"]:
    """Bring crops in [0, 1] back to their own ranges and normalise them."""
    if ranges is not None:
        low, high = ranges[:, :, None, None, None].unbind(1)  # [sample, 1, 1, 1]
        values = values * (high - low) + low
    return intensity.normalised(values, pixels)


def with_each(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    """Change the tensors that a batch consists of."""
    names = ("global_crops", "local_crops", "anchor_crops", "masks")
    parts = {name: getattr(batch, name) for name in names}
    changed: dict[str, Any] = {name: change(part) for name, part in parts.items() if part is not None}
    return replace(batch, **changed)
