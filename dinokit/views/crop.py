"""Random resized crops: which window of an image (torchvision's RandomResizedCrop), its resampling and turn.

Bicubic (Keys 1981, a = -0.5) or bilinear with antialiasing (support widened by the scale when shrinking), any number of
channels, on uint8 or on float32 in [0, 1], which come back as they went in. Two ways to the same pixels, up to one grey
level of rounding: large images one by one with torch's kernel, or with what numba compiles of it (`resizing`), equal to
the bit; small images of one shape all together as two batched matrix products, because the kernel's fixed cost of 60 us
per call would exceed the work (768 crops of 28 px on one core: 58 ms against 10).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Int64, Num, Shaped
from torch import Tensor

from dinokit.views import quick

Kernel = Literal["bicubic", "bilinear"]
Fit = Literal["retry", "clip"]

DRAWS = 24  # uniforms per crop: 10 tries of (area, aspect), then top, left, flip, angle
SMALL = 64  # pixels; images up to this side are resampled together
_TRIES = 10


def boxes(
    uniforms: Float[np.ndarray, "sample draw"],
    *,
    height: Int64[np.ndarray, "sample"],
    width: Int64[np.ndarray, "sample"],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    fit: Fit = "retry",
) -> Num[np.ndarray, "sample 4"]:
    """Choose a window per image: (top, left, height, width) in pixels.

    Area uniform in `scale` (fractions of the image), aspect ratio log-uniform in `ratio`. What sticks out is drawn
    again, in whole pixels: the first of ten tries that fits, else the largest centred window of an allowed ratio; with
    `fit` "clip" it is cut off, and positions and sides are fractions of pixels.
    """
    tries = uniforms[:, : 2 * _TRIES].reshape(-1, _TRIES, 2)
    area = (height * width)[:, None] * (scale[0] + (scale[1] - scale[0]) * tries[..., 0])  # [sample, try]
    low, high = np.log(ratio)
    aspect = np.exp(low + (high - low) * tries[..., 1])
    if fit == "clip":
        side, across = np.sqrt(area[:, 0] / aspect[:, 0]), np.sqrt(area[:, 0] * aspect[:, 0])
        tall, wide = np.minimum(side, height), np.minimum(across, width)
        return np.stack([uniforms[:, 20] * (height - tall), uniforms[:, 21] * (width - wide), tall, wide], axis=1)
    tall, wide = np.rint(np.sqrt(area / aspect)), np.rint(np.sqrt(area * aspect))
    fits = (tall > 0) & (tall <= height[:, None]) & (wide > 0) & (wide <= width[:, None])
    first = fits.argmax(axis=1)[:, None]
    chosen_height = np.take_along_axis(tall, first, axis=1)[:, 0]
    chosen_width = np.take_along_axis(wide, first, axis=1)[:, 0]
    top = np.floor(uniforms[:, 20] * (height - chosen_height + 1))
    left = np.floor(uniforms[:, 21] * (width - chosen_width + 1))
    drawn = np.stack([top, left, chosen_height, chosen_width], axis=1)
    tall = np.where(width / height < ratio[0], np.rint(width / ratio[0]), height)
    wide = np.where(width / height > ratio[1], np.rint(height * ratio[1]), width)
    centred = np.stack([(height - tall) // 2, (width - wide) // 2, tall, wide], axis=1)
    return np.where(fits.any(axis=1)[:, None], drawn, centred).astype(np.int64)


def flips(uniforms: Float[np.ndarray, "*sample draw"], *, probability: float) -> Bool[np.ndarray, "*sample"]:
    """Choose which crops are mirrored left to right."""
    return uniforms[..., 22] < probability


def angles(uniforms: Float[np.ndarray, "*sample draw"], *, rotate: float) -> Float[np.ndarray, "*sample"]:
    """Choose how far each crop is turned, in radians, uniform within `rotate` degrees to either side."""
    return math.radians(rotate) * (2 * uniforms[..., 23] - 1)


def canvas(size: int, *, rotate: float) -> int:
    """Return the side of the square from which a crop of `size` pixels can be turned by up to `rotate` degrees."""
    largest = math.radians(min(rotate, 45))
    side = math.ceil(size * (math.cos(largest) + math.sin(largest)))
    return side + (side - size) % 2  # equal margins: without a turn, pixels fall on pixels


def grown(windows: Num[np.ndarray, "view sample 4"], factor: float) -> Float[np.ndarray, "view sample 4"]:
    """Enlarge windows about their centres; they may then stick out of the image."""
    corner, sides = windows[..., :2], windows[..., 2:]
    return np.concatenate([corner - sides * (factor - 1) / 2, sides * factor], axis=-1)


def turn(
    crops: Shaped[Tensor, "view sample channel canvas canvas"], angle: Float[np.ndarray, "view sample"], *, size: int
) -> Shaped[Tensor, "view sample channel size size"]:
    """Take the middle `size` pixels of each crop, turned counter-clockwise by its angle (radians), bilinearly."""
    views, samples, channels, side, _ = crops.shape
    if views == 0:  # torch turns nothing with an error
        return crops.new_empty(views, samples, channels, size, size)
    radians = torch.from_numpy(angle).float().flatten()
    cos, sin, none = radians.cos() * size / side, radians.sin() * size / side, torch.zeros_like(radians)
    look_at = torch.stack([cos, -sin, none, sin, cos, none], dim=1).view(-1, 2, 3)  # output pixel -> canvas
    grid = F.affine_grid(look_at, [views * samples, channels, size, size], align_corners=False)
    turned = F.grid_sample(crops.flatten(0, 1).float().contiguous(), grid, padding_mode="border", align_corners=False)
    return _stored(turned, crops.dtype).view(views, samples, channels, size, size)


@dataclass(frozen=True)
class Kind:
    """Windows of every image, all resized to one square."""

    windows: Num[np.ndarray, "view sample 4"]
    mirrored: Bool[np.ndarray, "view sample"]
    size: int


def cut(
    images: Sequence[Tensor],
    windows: Num[np.ndarray, "view sample 4"],
    mirrored: Bool[np.ndarray, "view sample"],
    *,
    size: int,
    kernel: Kernel,
) -> Shaped[Tensor, "view sample channel size size"]:
    """Cut windows out of images ([channel, height, width], one type, any sizes), resize them to a square, mirror them.

    What a window holds beyond the image repeats the image's edge.
    """
    return cut_kinds(images, [Kind(windows, mirrored, size)], kernel=kernel)[0]


def cut_kinds(images: Sequence[Tensor], kinds: Sequence[Kind], *, kernel: Kernel) -> list[Tensor]:
    """Cut several kinds of crops, image by image; each as `cut` does."""
    channels, dtype = images[0].shape[0], images[0].dtype
    out = [
        torch.empty(*kind.mirrored.shape, channels, kind.size, kind.size, dtype=dtype) for kind in kinds
    ]  # [view, sample, channel, size, size] each
    resizing = quick.module("resizing") if dtype == torch.uint8 and channels == 3 else None
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, image in enumerate(images):
        if max(image.shape[1:]) <= SMALL:
            groups.setdefault(tuple(image.shape), []).append(index)
            continue
        targets = []
        for kind, crops in zip(kinds, out, strict=True):
            windows, mirrored = np.rint(kind.windows[:, index]).astype(np.int64), kind.mirrored[:, index]
            windows[:, 2:] = windows[:, 2:].clip(min=1)  # a clipped one may be less than half a pixel
            stops = windows[:, :2] + windows[:, 2:]
            inside = (windows[:, :2] >= 0).all() and (stops <= image.shape[1:]).all()
            if resizing is not None and inside and len(windows):
                targets.append(resizing.Target(windows, mirrored, crops.numpy()))
                continue
            for view, window in enumerate(windows):
                crops[view, index] = _one(image, window, flip=bool(mirrored[view]), size=kind.size, kernel=kernel)
        if resizing is not None and targets:
            resizing.cut(image.permute(1, 2, 0).numpy(), targets, sample=index, cubic=kernel == "bicubic")
    for members in groups.values():
        stack = torch.stack([images[index] for index in members]).float()  # [sample, channel, height, width]
        for kind, crops in zip(kinds, out, strict=True):
            _cut_small(stack, kind, members, kernel, out=crops)
    return out


def _cut_small(
    stack: Float32[Tensor, "some channel height width"], kind: Kind, members: list[int], kernel: Kernel, *, out: Tensor
) -> None:
    """Cut the crops of the members of a batch, small images of one shape."""
    inside, margin = kind.windows[:, members], 0
    if inside.size:  # by how many pixels they stick out, rounded up
        low, high = inside[..., :2], inside[..., :2] + inside[..., 2:] - stack.shape[2:]
        margin = max(0, math.ceil(max(float(-low.min()), float(high.max())) - 1e-6))
    if margin:
        stack = F.pad(stack, (margin,) * 4, mode="replicate")
        inside = inside + np.array([margin, margin, 0, 0])
    stack = stack.transpose(1, 2)  # [sample, height, channel, width]
    for view in range(len(inside)):
        crops = _together(stack, inside[view], kind.mirrored[view, members], size=kind.size, kernel=kernel)
        out[view].index_copy_(0, torch.tensor(members), _stored(crops, out.dtype))


def _one(image: Tensor, window: Int64[np.ndarray, "4"], *, flip: bool, size: int, kernel: Kernel) -> Tensor:
    top, left, height, width = window.tolist()
    part = image[:, max(top, 0) : top + height, max(left, 0) : left + width]
    if part.shape[1:] != (height, width):
        rows = torch.arange(top, top + height).clamp_(0, image.shape[1] - 1)
        columns = torch.arange(left, left + width).clamp_(0, image.shape[2] - 1)
        part = image[:, rows][:, :, columns]
    # copied first: torch resizes a whole channels-last array twice as fast as a window of one
    part = part[None].contiguous(memory_format=torch.channels_last)
    resized = F.interpolate(part, size=(size, size), mode=kernel, antialias=True)[0]
    if resized.dtype != torch.uint8:
        resized.clamp_(0, 1)  # bicubic overshoots at edges; torch clamps uint8 itself
    return resized.flip(-1) if flip else resized


def _together(
    stack: Float32[Tensor, "sample height channel width"],
    windows: Num[np.ndarray, "sample 4"],
    mirrored: Bool[np.ndarray, "sample"],
    *,
    size: int,
    kernel: Kernel,
) -> Float32[Tensor, "sample channel size size"]:
    samples, height, channels, width = stack.shape
    window = torch.from_numpy(windows).float()
    rows = _weights(window[:, 0], window[:, 2], side=height, size=size, kernel=kernel)  # [sample, size, height]
    columns = _weights(window[:, 1], window[:, 3], side=width, size=size, kernel=kernel)
    columns = torch.where(torch.from_numpy(mirrored)[:, None, None], columns.flip(1), columns)
    wide = torch.bmm(stack.reshape(samples, height * channels, width), columns.transpose(1, 2))
    tall = torch.bmm(rows, wide.view(samples, height, channels * size))  # [sample, size, channel * size]
    return tall.view(samples, size, channels, size).transpose(1, 2)


def _stored(values: Float32[Tensor, "*shape"], dtype: torch.dtype) -> Shaped[Tensor, "*shape"]:
    """Bring computed values back to the images' own type and range; the input may be overwritten."""
    return values.round_().clamp_(0, 255).to(dtype) if dtype == torch.uint8 else values.clamp_(0, 1)


def _weights(
    start: Num[Tensor, "sample"], length: Num[Tensor, "sample"], *, side: int, size: int, kernel: Kernel
) -> Float32[Tensor, "sample size side"]:
    """Make the matrix that resamples pixels start .. start + length of a line of `side` pixels to `size` pixels."""
    scale = (length / size)[:, None, None]
    position = torch.arange(side) + 0.5 - start[:, None]  # of each pixel within the window, [sample, side]
    # pixels outside of the window are put out of reach of every kernel
    position = torch.where((position >= 0) & (position <= length[:, None]), position, math.inf)
    centres = scale * (torch.arange(size)[:, None] + 0.5)  # [sample, size, 1]
    distance = (position[:, None, :] - centres).div_(scale.clamp(min=1)).abs_()
    if kernel == "bilinear":
        weights = distance.neg_().add_(1).clamp_(min=0)
        return weights.div_(weights.sum(dim=2, keepdim=True))
    # twice Keys' kernel (3 d^3 - 5 d^2 + 2 up to 1, then -d^3 + 5 d^2 - 8 d + 4 up to 2) as a sum of clamped cubics,
    # f^2 (f - 1) + 2 n^2 (1 - 2 n) with f = max(2 - d, 0), n = max(1 - d, 0): half the passes over memory
    far = distance.neg_().add_(2).clamp_(min=0)
    near = (far - 1).clamp_(min=0)
    weights = (far - 1).mul_(far).mul_(far)
    weights.add_((1 - 2 * near).mul_(near).mul_(near), alpha=2)
    return weights.div_(weights.sum(dim=2, keepdim=True))
