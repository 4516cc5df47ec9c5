"""The elementary photometric operations, each on a whole batch with one strength per image.

Definitions are torchvision's (v2 functional, float images in [0, 1]); tests compare them. All results stay in [0, 1].
Saturation, hue and grayscale mean something for RGB only; brightness, contrast, blur and solarisation work for any
number of channels (the contrast of other than three channels is taken around the mean of all of them).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

LUMINANCE = (0.2989, 0.587, 0.114)  # ITU-R BT.601
_BLOCK = 32  # pixels blurred by one product of matrices; longer wastes products with 0, shorter reads edges twice


def brightness(
    images: Float[Tensor, "sample channel height width"], factor: Float[Tensor, "sample"]
) -> Float[Tensor, "sample channel height width"]:
    """Scale the values; 0 is black, 1 the image itself."""
    return (images * _each(factor)).clamp_(0, 1)


def contrast(
    images: Float[Tensor, "sample channel height width"], factor: Float[Tensor, "sample"]
) -> Float[Tensor, "sample channel height width"]:
    """Move the values away from the mean luminance of the image; 0 is flat grey, 1 the image itself."""
    mean = _luminance(images).mean(dim=(1, 2, 3)) if images.shape[1] == 3 else images.mean(dim=(1, 2, 3))
    return (images * _each(factor)).add_(_each((1 - factor) * mean)).clamp_(0, 1)


def saturation(
    images: Float[Tensor, "sample 3 height width"], factor: Float[Tensor, "sample"]
) -> Float[Tensor, "sample 3 height width"]:
    """Move every pixel away from its own luminance; 0 is grayscale, 1 the image itself."""
    gray = _luminance(images).mul_(_each(1 - factor))
    return (images * _each(factor)).add_(gray).clamp_(0, 1)


def hue(
    images: Float[Tensor, "sample 3 height width"], shift: Float[Tensor, "sample"]
) -> Float[Tensor, "sample 3 height width"]:
    """Turn the hue by a fraction of the colour circle, in [-0.5, 0.5], in HSV space."""
    red, green, blue = images.transpose(0, 1).contiguous()  # three planes, each [sample, height, width]
    value = torch.maximum(torch.maximum(red, green), blue)
    low = torch.minimum(torch.minimum(red, green), blue)
    chroma = value - low
    # hue * chroma in sixths of the circle, from the largest channel: 0 red, 2 green, 4 blue. It is chosen by weights of
    # 0 and 1, for torch.where and comparisons take 8 times as long
    not_red, not_green = (value - red).sign_(), value.sub_(green).sign_()
    from_green, from_blue = (blue - red).add_(chroma, alpha=2), (red - green).add_(chroma, alpha=4)
    turn = torch.lerp(green - blue, torch.lerp(from_green, from_blue, not_green), not_red)
    width = chroma.mul_(6)
    turn.div_(width.clamp(min=1e-12)).add_(shift[:, None, None])  # gray pixels: width 0 makes the hue irrelevant
    turn.sub_(turn.floor())  # [0, 1); half the cost of remainder
    out = torch.empty_like(images)
    high, lower = torch.add(low, width, alpha=1 / 3), low.sub_(width, alpha=1 / 6)
    torch.addcmul(lower, width, (turn - 1 / 2).abs_().clamp_(1 / 6, 1 / 3), out=out[:, 0])
    torch.addcmul(high, width, (turn - 1 / 3).abs_().clamp_(1 / 6, 1 / 3), value=-1, out=out[:, 1])
    torch.addcmul(high, width, (turn - 2 / 3).abs_().clamp_(1 / 6, 1 / 3), value=-1, out=out[:, 2])
    return out.clamp_(0, 1)  # rounding


def grayscale(images: Float[Tensor, "sample 3 height width"]) -> Float[Tensor, "sample 3 height width"]:
    """Replace all three channels by the luminance."""
    return _luminance(images).repeat(1, 3, 1, 1)  # no expand: the result may be written to


def solarise(
    images: Float[Tensor, "sample channel height width"], *, threshold: float
) -> Float[Tensor, "sample channel height width"]:
    """Invert the values that reach the threshold."""
    return torch.where(images >= threshold, 1 - images, images)


def blur(
    images: Float[Tensor, "sample channel height width"], sigma: Float[Tensor, "sample"], *, taps: int
) -> Float[Tensor, "sample channel height width"]:
    """Convolve with a Gaussian of `taps` x `taps` pixels (odd; under twice the image side), reflecting the edges.

    Rows, then columns, in blocks that are multiplied by one banded matrix: on a CPU 3 times faster than adding shifted
    images.
    """
    samples, channels, height, width = images.shape
    radius = taps // 2
    matrix = _gaussian(sigma, taps=taps, length=_BLOCK)  # [sample, block, reach]
    reach = _BLOCK + 2 * radius
    right, bottom = -width % _BLOCK, -height % _BLOCK  # up to whole blocks; what comes of these pixels is cut off
    padded = F.pad(images, (radius,) * 4, mode="reflect")
    if right or bottom:
        padded = F.pad(padded, (0, right, 0, bottom))
    rows = padded.unfold(3, reach, _BLOCK).reshape(samples, -1, reach)  # [sample, channel * row * block, reach]
    lines = (rows @ matrix.transpose(1, 2)).view(samples, channels, height + 2 * radius + bottom, width + right)
    columns = lines.unfold(2, reach, _BLOCK).transpose(3, 4)  # [sample, channel, block, reach, width]
    return (matrix[:, None, None] @ columns).flatten(2, 3)[..., :height, :width].contiguous()


def _gaussian(sigma: Float[Tensor, "sample"], *, taps: int, length: int) -> Float[Tensor, "sample length reach"]:
    """Make the matrix that blurs a line of length + taps - 1 pixels to `length` pixels."""
    offsets = torch.arange(taps, device=sigma.device) - taps // 2
    weights = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    weights = weights / weights.sum(dim=1, keepdim=True)
    band = F.pad(weights, (0, length))  # rows of this length, shifted by one each when read as rows one shorter
    return band.repeat(1, length)[:, : length * (length + taps - 1)].view(-1, length, length + taps - 1)


def _luminance(images: Float[Tensor, "sample 3 height width"]) -> Float[Tensor, "sample 1 height width"]:
    red, green, blue = LUMINANCE
    gray = images[:, :1] * red
    return gray.add_(images[:, 1:2], alpha=green).add_(images[:, 2:], alpha=blue)


def _each(values: Float[Tensor, "sample"]) -> Float[Tensor, "sample 1 1 1"]:
    return values[:, None, None, None]
