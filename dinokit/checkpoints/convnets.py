"""Official weights of the convolutional backbones: DINO's ResNet-50 and DINOv3's ConvNeXts.

Our names are theirs, and the configuration is read off names and shapes. Two things in their files are no part of the
network: `norms.3` of ConvNeXt, a second copy of `norm`, and `fc` of a ResNet, torchvision's classifier.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from dinokit.checkpoints import official
from dinokit.core.pixels import Pixels
from dinokit.models import convnext, resnet
from dinokit.models.convnet import STAGES

CONVNEXT = "downsample_layers.0.0.weight"
RESNET = "layer1.0.conv1.weight"
CLASSIFIER = ("fc.weight", "fc.bias")
COPIES = {"norms.3.weight": "norm.weight", "norms.3.bias": "norm.bias"}

Config = convnext.Config | resnet.Config


def matches(state: Mapping[str, Tensor]) -> bool:
    """Say whether these are weights of a convolutional backbone; the state is that of a whole file."""
    return CONVNEXT in state or RESNET in state


def recognise(state: Mapping[str, Tensor]) -> tuple[Config, official.State, list[str]]:
    """Return the architecture, the weights, and the keys of a classifier, which were left out.

    Args:
        state: of a whole file, wrappers and prefixes taken off, see `official.parts`.
    Raises:
        UserError: if a tensor that sizes are read from is missing, or a stage has a gap.
    """
    if CONVNEXT in state:
        return _convnext(state), {key: value for key, value in state.items() if not _is_copy(state, key)}, []
    left = [key for key in CLASSIFIER if key in state]
    return _resnet(state), {key: value for key, value in state.items() if key not in left}, left


def pixels(architecture: Config) -> Pixels:
    """Return what images the published weights want: ImageNet's statistics, 256 px for ConvNeXt, 224 px for ResNet."""
    return Pixels(size=256 if isinstance(architecture, convnext.Config) else 224)


def _convnext(state: Mapping[str, Tensor]) -> convnext.Config:
    # the first convolution stands before its norm, the others behind theirs
    names = [CONVNEXT, *(f"downsample_layers.{stage}.1.weight" for stage in range(1, STAGES))]
    shapes = [official.shape(state, name, axes=4) for name in names]
    return convnext.Config(
        channels=shapes[0][1],
        dims=tuple(dim for dim, *_ in shapes),
        depths=tuple(max(official.depth(state, f"stages.{stage}"), 1) for stage in range(STAGES)),
    )


def _resnet(state: Mapping[str, Tensor]) -> resnet.Config:
    width, channels, _, _ = official.shape(state, "conv1.weight", axes=4)
    depths = tuple(max(official.depth(state, f"layer{stage}"), 1) for stage in range(1, STAGES + 1))
    return resnet.Config(channels=channels, width=width, depths=depths)


def _is_copy(state: Mapping[str, Tensor], key: str) -> bool:
    original = state.get(COPIES.get(key, ""))
    return original is not None and original.dtype == state[key].dtype and torch.equal(state[key], original)
