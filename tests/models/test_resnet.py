"""ResNet-50 against torchvision's, which is the one DINO trained."""

import pytest
import torch
import torchvision
from torch import nn

from dinokit.models.convnets import ResNet, ResNetConfig


def peer_pair() -> tuple[ResNet, nn.Module]:
    """Build both with the same weights and statistics; batch norm at its initial values would hide mistakes."""
    theirs = torchvision.models.resnet50(weights=None)
    theirs.fc = nn.Identity()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in theirs.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 1.5, generator=generator)
            elif value.ndim == 1:
                value.normal_(0.3, 0.3, generator=generator)
    model = ResNet(ResNetConfig())
    model.load_state_dict(theirs.state_dict())
    return model, theirs


@torch.no_grad()
@pytest.mark.parametrize(
    "training", [pytest.param(False, marks=pytest.mark.slow), True], ids=["evaluation", "training"]
)
def test_features_and_statistics_are_those_of_torchvision(training: bool) -> None:
    model, theirs = peer_pair()
    model.train(training)
    theirs.train(training)
    for height, width in ((64, 64), (45, 97)):
        images = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))
        expected = theirs(images)
        scale = expected.abs().max().item()
        # the same kernels in the same order: measured 0; the stride on the first 1x1 differs in the first digit
        torch.testing.assert_close(model(images).cls, expected, atol=1e-5 * scale, rtol=0)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, msg=name)


@torch.no_grad()
def test_patches_are_the_last_map() -> None:
    model, theirs = peer_pair()
    seen = {}
    theirs.layer4.register_forward_hook(lambda _, __, output: seen.update(maps=output))
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(2))
    theirs.eval()(images)
    maps = model.eval()(images).maps
    torch.testing.assert_close(maps, seen["maps"], atol=1e-5 * maps.abs().max().item(), rtol=0)
