"""Frozen patch maps of images of any size, and the way back to pixels: padding, windows, scales and mirrors.

An image whose sides are no multiples of the patch is padded with zeros (the mean colour, once normalised) on all sides:
of ceil(s / p) p - s pixels the half, rounded down, comes before, the rest after. Values of patches are resized to the
padded image, bilinearly, and cut back.

The seam rule, per axis of length L with windows of `crop` pixels every `stride` pixels: there are
max(ceil((L - crop) / stride), 0) + 1 windows; the last ones are shifted back so that they end at the border, a window
is never larger than the image, and where windows overlap the mean of their values counts.
Source: the sliding-window evaluation of DINOv2 (arXiv:2304.07193, section 7.4) and DINOv3 (arXiv:2508.10104, D.1).
Memory: besides the sum of all windows, in full size, the values of one window exist at a time; with several scales or
mirrors, the sum over these as well.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from dinokit.core.messages import RunError, UserError
from dinokit.images import intensity
from dinokit.models.features import Backbone, Features

Layers = int | tuple[int, ...]  # the last so many, or their indices
# images -> values of every pixel, of the same height and width
Predict = Callable[[Float[Tensor, "batch channel height width"]], Float[Tensor, "batch value height width"]]
Link = Callable[[Float[Tensor, "batch value height width"]], Float[Tensor, "batch value height width"]]


@dataclass(frozen=True)
class Frame:
    """Where an image of (height, width) pixels lies within its padded twin."""

    size: tuple[int, int]
    padded: tuple[int, int]
    corner: tuple[int, int]  # top, left


@contextmanager
def frozen(backbone: Backbone) -> Iterator[torch.device]:
    """Put a backbone into evaluation mode, without gradients, for a while; yield the device it is on."""
    was_training = backbone.training
    backbone.eval()
    try:
        with torch.no_grad():
            yield backbone.device
    finally:
        backbone.train(was_training)


def prepared(
    image: intensity.Image, backbone: Backbone, *, short: int | None = None
) -> Float[Tensor, "1 channel rows columns"]:
    """Normalise one image as the backbone expects, on its device, its short side resized to so many pixels."""
    return intensity.normalised(scaled(image, short=short, device=backbone.device), backbone.pixels)


def scaled(
    image: intensity.Image, *, short: int | None, device: torch.device | None = None
) -> Float[Tensor, "1 channel rows columns"]:
    """Return an image in floats, 1.0 white, its short side resized to so many pixels; short None keeps the size.

    Bicubic and antialiased, within the image's range.
    """
    values = intensity.to_unit(image[None]).float().to(device)
    height, width = image.shape[1:]
    scale = 1.0 if short is None else short / min(height, width)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    if size == (height, width):
        return values
    return F.interpolate(values, size=size, mode="bicubic", antialias=True).clamp_(*intensity.value_range(image))


def encode(
    backbone: Backbone, images: Float[Tensor, "batch channel height width"], *, layers: Layers = 1, norm: bool = True
) -> tuple[tuple[Features, ...], Frame]:
    """Compute the features of normalised images after the given layers, and where the images lie in them.

    Args:
        layers: the last so many, or their indices.
        norm: pass each through the final norm.
    """
    backbone.look_at(images)
    padded, frame = pad(images, backbone.patch_size)
    found = backbone.intermediate(padded, layers, norm=norm)
    if not all(layer.patches.isfinite().all() for layer in found):
        raise RunError(f"the model {backbone.name} gives features that are not finite; its weights are broken")
    return found, frame


def pad(
    images: Float[Tensor, "batch channel height width"], patch: int
) -> tuple[Float[Tensor, "batch channel rows columns"], Frame]:
    """Pad images with zeros to the next multiples of the patch, as evenly as can be."""
    height, width = images.shape[2:]
    down, right = -height % patch, -width % patch
    top, left = down // 2, right // 2
    frame = Frame((height, width), (height + down, width + right), (top, left))
    return F.pad(images, (left, right - left, top, down - top)), frame


def at_pixels(
    maps: Float[Tensor, "batch value rows columns"], frame: Frame
) -> Float[Tensor, "batch value height width"]:
    """Bring values of patches, or of any finer grid of the padded image, to the pixels of the image."""
    (top, left), (height, width) = frame.corner, frame.size
    return resized(maps, frame.padded)[..., top : top + height, left : left + width]


def predictor(backbone: Backbone, head: nn.Module, *, layers: Layers = 1, norm: bool = True) -> Predict:
    """Return what predicts the values of every pixel of normalised images; call it within `frozen`.

    Args:
        head: a sequence of Features, one per layer -> [batch, value, rows, columns].
    """

    def predict(images: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch value height width"]:
        features, frame = encode(backbone, images, layers=layers, norm=norm)
        return at_pixels(head(features), frame)

    return predict


def tried(backbone: Backbone, *, layers: Layers = 1, size: tuple[int, int] | None = None) -> tuple[Features, ...]:
    """Return the features of an image of nothing: what comes out of these layers, and how wide it is.

    Args:
        size: height and width, for a network that takes but one; None: two patches by two.
    """
    height, width = size or (2 * backbone.patch_size,) * 2
    with frozen(backbone) as device:
        return backbone.intermediate(torch.zeros(1, backbone.channels, height, width, device=device), layers)


@dataclass(frozen=True)
class Windows:
    """How an image is cut up, in pixels; crop None sees it whole."""

    crop: int | None = None  # side of a window
    stride: int = 1  # from one window to the next

    def __post_init__(self) -> None:
        if self.crop is not None and not 1 <= self.stride <= self.crop:
            raise UserError(f"expected windows with 1 <= stride <= crop, got {self.stride} and {self.crop}")


WHOLE = Windows()


def starts(length: int, *, crop: int, stride: int) -> list[int]:
    """Return where the windows of one axis begin."""
    count = max(math.ceil((length - crop) / stride), 0) + 1
    return [max(min(index * stride, length - crop), 0) for index in range(count)]


def slide(
    images: Float[Tensor, "batch channel height width"], predict: Predict, windows: Windows = WHOLE
) -> Float[Tensor, "batch value height width"]:
    """Predict window by window; each value is the mean over the windows that saw the pixel."""
    height, width = images.shape[2:]
    crop, stride = windows.crop, windows.stride
    if crop is None or (height <= crop and width <= crop):
        return predict(images)
    total: Tensor | None = None
    hits = images.new_zeros(height, width)
    for top in starts(height, crop=crop, stride=stride):
        for left in starts(width, crop=crop, stride=stride):
            place = (..., slice(top, top + crop), slice(left, left + crop))
            values = predict(images[place])
            if total is None:
                total = values.new_zeros(*values.shape[:2], height, width)
            total[place] += values
            hits[place] += 1
            del values  # else the next window's would exist beside them
    assert total is not None
    return total.div_(hits)


def augmented(
    images: Float[Tensor, "batch channel height width"],
    predict: Predict,
    *,
    size: tuple[int, int],
    windows: Windows = WHOLE,
    ratios: Sequence[float] = (1.0,),
    flip: bool = False,
    link: Link = lambda values: values,
) -> Float[Tensor, "batch value rows columns"]:
    """Average predictions over scales and mirrors, each by windows, at the size (rows, columns) of the target.

    Args:
        ratios: of the image's size, each seen by windows of the same size.
        flip: also see every scale mirrored left to right; its values are mirrored back.
        link: what is averaged, of the values at the target's size: their softmax, or the values themselves.
    """
    total: Tensor | None = None
    for ratio in ratios:
        seen = resized(images, (round(images.shape[2] * ratio), round(images.shape[3] * ratio)))
        for mirrored in (False, True) if flip else (False,):
            values = slide(seen.flip(-1) if mirrored else seen, predict, windows)
            values = link(resized(values.flip(-1) if mirrored else values, size))
            # a sum of its own: the values may be the very images
            total = torch.zeros_like(values).add_(values) if total is None else total.add_(values)
            del values
    assert total is not None
    return total.div_(len(ratios) * (1 + flip))


def resized(
    maps: Float[Tensor, "batch value height width"], size: tuple[int, int]
) -> Float[Tensor, "batch value rows columns"]:
    """Resize bilinearly, pixel centres on pixel centres (align_corners False)."""
    if tuple(maps.shape[2:]) == size:
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def joined(
    maps: Sequence[Float[Tensor, "batch _ rows columns"]], *, width: int
) -> Float[Tensor, "batch width rows columns"]:
    """Put maps behind each other, in float32; together they must be as wide as the head."""
    found = torch.cat([*maps], dim=1).float()
    if found.shape[1] != width:
        raise UserError(
            f"the head takes {width} numbers per patch, got {found.shape[1]}; it belongs to another model or to other "
            "layers"
        )
    return found


def best_class(logits: Float[Tensor, "1 class height width"], size: tuple[int, int]) -> Int64[Tensor, "rows columns"]:
    """Return the class of the largest logit at another size, resizing one class at a time to save memory."""
    best = resized(logits[:, :1], size)[0, 0].clone()
    found = torch.zeros(size, dtype=torch.int64, device=logits.device)
    for number in range(1, logits.shape[1]):
        rival = resized(logits[:, number : number + 1], size)[0, 0]
        better = rival > best
        best = torch.where(better, rival, best)
        found[better] = number
    return found
