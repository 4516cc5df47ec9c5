"""Prediction by windows, scales and mirrors: how an image of any size is seen by a head that knows one size.

The seam rule, per axis of length L with windows of `crop` pixels every `stride` pixels: there are
max(ceil((L - crop) / stride), 0) + 1 windows; the last ones are shifted back so that they end at the border, a window
is never larger than the image, and where windows overlap the mean of their values counts.
Source: the sliding-window evaluation of DINOv2 (arXiv:2304.07193, section 7.4) and DINOv3 (arXiv:2508.10104, D.1).

Memory: besides the sum of all windows, in full size, the values of one window exist at a time; with several scales or
mirrors, the sum over these as well.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from dinokit.core.errors import UserError

# images -> values of every pixel, of the same height and width
Predict = Callable[[Float[Tensor, "batch channel height width"]], Float[Tensor, "batch value height width"]]
Link = Callable[[Float[Tensor, "batch value height width"]], Float[Tensor, "batch value height width"]]


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


def softmax(logits: Float[Tensor, "batch class height width"]) -> Float[Tensor, "batch class height width"]:
    """Turn the logits of classes into probabilities: the link of segmentation."""
    return torch.softmax(logits, dim=1)


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
