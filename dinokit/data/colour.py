"""The elementary photometric operations, each on a whole batch with one strength per image.

Definitions are torchvision's (v2 functional, float images in [0, 1]); tests compare them. All results stay in [0, 1].
Saturation, hue and grayscale mean something for RGB only; brightness, contrast, blur and solarisation work for any
number of channels (the contrast of other than three channels is taken around the mean of all of them).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

_LUMINANCE = (0.2989, 0.587, 0.114)  # ITU-R BT.601


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
    scale = chroma.clamp(min=1e-12).reciprocal_()  # grey pixels: chroma 0 makes the hue irrelevant
    # hue in sixths of the circle: 0 red, 2 green, 4 blue
    angle = torch.where(value == green, (blue - red).mul_(scale).add_(2), (red - green).mul_(scale).add_(4))
    angle = torch.where(value == red, (green - blue).mul_(scale), angle)
    angle.add_((6 * shift)[:, None, None])
    angle.sub_((angle / 6).floor_(), alpha=6)  # [0, 6); half the cost of remainder
    out = torch.empty_like(images)
    torch.addcmul(low, chroma, (angle - 3).abs_().sub_(1).clamp_(0, 1), out=out[:, 0])
    torch.addcmul(low, chroma, (angle - 2).abs_().neg_().add_(2).clamp_(0, 1), out=out[:, 1])
    torch.addcmul(low, chroma, (angle - 4).abs_().neg_().add_(2).clamp_(0, 1), out=out[:, 2])
    return out


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
    """Convolve with a Gaussian of `taps` x `taps` pixels (odd; under twice the image side), reflecting the edges."""
    height, width = images.shape[2:]
    radius = taps // 2
    offsets = torch.arange(radius + 1, device=images.device)
    weights = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)  # [sample, radius + 1], the kernel is symmetric
    weights = weights / (2 * weights.sum(dim=1, keepdim=True) - 1)  # the centre has weight 1 and counts once
    # a weighted sum of shifted images: 2 to 4 times faster on a CPU than a grouped convolution
    padded = F.pad(images, (radius, radius, radius, radius), mode="reflect")
    lines = padded[..., radius : radius + width] * _each(weights[:, 0])
    for k in range(1, radius + 1):
        pair = padded[..., radius - k : radius - k + width] + padded[..., radius + k : radius + k + width]
        lines.addcmul_(pair, _each(weights[:, k]))
    out = lines[..., radius : radius + height, :] * _each(weights[:, 0])
    for k in range(1, radius + 1):
        pair = lines[..., radius - k : radius - k + height, :] + lines[..., radius + k : radius + k + height, :]
        out.addcmul_(pair, _each(weights[:, k]))
    return out


def _luminance(images: Float[Tensor, "sample 3 height width"]) -> Float[Tensor, "sample 1 height width"]:
    red, green, blue = _LUMINANCE
    gray = images[:, :1] * red
    return gray.add_(images[:, 1:2], alpha=green).add_(images[:, 2:], alpha=blue)


def _each(values: Float[Tensor, "sample"]) -> Float[Tensor, "sample 1 1 1"]:
    return values[:, None, None, None]
