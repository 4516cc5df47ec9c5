"""A look is the same for every kind of backbone, and leaves no trace in it."""

import pytest
import torch
from torch import nn

from dinokit.health.probe import look
from dinokit.models import convnets, vit

IMAGES = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
BACKBONES = {
    "vit": lambda: vit.VisionTransformer(vit.Config(patch_size=16, dim=16, depth=1, heads=2, registers=2)),
    "vit of two norms": lambda: vit.VisionTransformer(
        vit.Config(patch_size=16, dim=16, depth=1, heads=2, registers=2, untie_cls_norm=True)
    ),
    "convnext": lambda: convnets.ConvNeXt(convnets.ConvNeXtConfig(dims=(4, 4, 8, 16), depths=(1, 1, 1, 1))),
    "resnet": lambda: convnets.ResNet(convnets.ResNetConfig(width=4, depths=(1, 1, 1, 1))),
}


@pytest.mark.parametrize("kind", list(BACKBONES))
def test_features_and_the_lengths_before_their_norm(kind: str) -> None:
    network: nn.Module = BACKBONES[kind]().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = look(network, iter(IMAGES.split(2)))
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(module._forward_pre_hooks for module in network.modules())
    network.eval()
    with torch.no_grad():
        features = network(IMAGES)
        (raw,) = network.intermediate(IMAGES, 1, norm=False)
    torch.testing.assert_close(found.features.cls, features.cls)
    torch.testing.assert_close(found.features.patches, features.patches)
    torch.testing.assert_close(found.cls_lengths, raw.cls.norm(dim=-1))
    torch.testing.assert_close(found.patch_lengths, raw.patches.norm(dim=-1))


def test_a_network_without_a_norm_has_the_lengths_of_its_features() -> None:
    network = BACKBONES["resnet"]()
    del network.norm
    network.norm = lambda tokens: tokens  # no module: nothing to look into
    found = look(network, iter(IMAGES.split(2)))
    torch.testing.assert_close(found.cls_lengths, found.features.cls.norm(dim=-1))
    torch.testing.assert_close(found.patch_lengths, found.features.patches.norm(dim=-1))
