"""RGB weights for images of another number of channels: only the first convolution changes.

- More than three: the kernels of red, green and blue stay, and every further channel gets their mean, as the authors of
  DINOv3 did for a fourth, near infrared, channel of satellite images (arXiv:2508.10104). Where the further channels
  equal their mean statistic, the network computes what it did without them.
- One or two: every channel gets the sum of the three kernels divided by the number of channels. An image whose channels
  are equal gives what its RGB copy gave: each of the three was normalised with its own statistics, and that is folded
  into kernels and bias. It is exact but where a padded window reaches over the border (ResNet, a ViT with a stem):
  there the padding stood for three means and now stands for one.

The mean and std of a new channel are the means of the three.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from dinokit.core.messages import UserError
from dinokit.images.intensity import Pixels
from dinokit.models.architecture import Architecture

RGB = 3
LARGEST = 4096  # channels; a larger number is a mistake, and would ask for gigabytes


def inflated(
    architecture: Architecture, state: Mapping[str, Tensor], pixels: Pixels, *, channels: int
) -> tuple[Architecture, dict[str, Tensor], Pixels]:
    """Return architecture, weights and pixel statistics for images of so many channels.

    Args:
        architecture: of the weights; comes back as it is if it takes so many channels already.
        state: all weights of the network, by name; left unchanged.
        pixels: what the weights want, for three channels.
        channels: 1 to LARGEST.
    Raises:
        UserError: if the weights are not RGB, or the number is no number of channels.
    """
    if isinstance(channels, bool) or not isinstance(channels, int) or not 1 <= channels <= LARGEST:
        raise UserError(f"expected a number of channels from 1 to {LARGEST}, got {channels!r}")
    if channels == architecture.channels:
        return architecture, dict(state), pixels
    if architecture.channels != RGB:
        raise UserError(
            f"only RGB weights can be changed to {channels} channels, these have {architecture.channels}; "
            "load them without channels="
        )
    pixels.check_channels(RGB)
    (kernels_at, offset_at, sign), found = _first(architecture), dict(state)
    mean, std = torch.tensor(pixels.mean).expand(RGB), torch.tensor(pixels.std).expand(RGB)
    kernels = state[kernels_at].float()  # [out, channel, height, width]
    if channels > RGB:
        further = kernels.mean(dim=1, keepdim=True).expand(-1, channels - RGB, -1, -1)
        kernels = torch.cat([kernels, further], dim=1)
    else:
        # (x std + mean - mean_c) / std_c is what channel c was, x the new channel
        scale, shift = std.mean() / std, (mean.mean() - mean) / std
        offset = torch.einsum("oijk, i -> o", kernels, shift)
        found[offset_at] = state[offset_at].float() + sign * offset
        total = torch.einsum("oijk, i -> ojk", kernels, scale)
        kernels = (total / channels)[:, None].expand(-1, channels, -1, -1)
    found[kernels_at] = kernels.contiguous()
    statistics = Pixels(_extended(pixels.mean, channels), _extended(pixels.std, channels), pixels.size)
    return replace(architecture, channels=channels), found, statistics


def _first(architecture: Architecture) -> tuple[str, str, int]:
    """Name the first convolution's kernels and what is added to its output; -1: subtracted from it."""
    if architecture.kind == "resnet":  # no bias: the batch norm behind it subtracts its mean
        return "conv1.weight", "bn1.running_mean", -1
    name = "downsample_layers.0.0"
    if architecture.kind == "vit":
        name = "patch_embed.proj" if architecture.stem is None else "patch_embed.stem"
    return f"{name}.weight", f"{name}.bias", 1


def _extended(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    if len(values) == 1:
        return values  # one for all
    known = values if channels > RGB else ()
    return (*known, *[sum(values) / RGB] * (channels - len(known)))
