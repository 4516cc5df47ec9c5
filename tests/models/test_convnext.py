"""ConvNeXt against the official DINOv3 (tests/golden/README.md) and, stage by stage, against torchvision."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import convnext as peer

from dinokit.models.convnets import ConvNeXt, ConvNeXtConfig

GOLDEN = Path(__file__).parent.parent / "golden" / "dinov3_convnext.safetensors"
DIMS, DEPTHS = (16, 24, 32, 48), (2, 1, 3, 2)
INNER = {"dwconv": 0, "norm": 2, "pwconv1": 3, "pwconv2": 5}  # places in torchvision's block


@torch.no_grad()
def test_dinov3_reproduces_the_official_features() -> None:
    tensors = load_file(GOLDEN)
    weights = {key[2:]: value for key, value in tensors.items() if key.startswith("w.")}
    weights = {key: value for key, value in weights.items() if not key.startswith("norms.")}  # a copy of norm
    model = ConvNeXt(ConvNeXtConfig(dims=DIMS, depths=(2, 2, 3, 2))).eval()
    model.load_state_dict(weights)
    features = model(tensors["in.images"])
    # measured 2e-6; GELU by tanh and epsilon 1e-5 are off by 4e-4, CLS as the mean of normed patches by 0.5
    torch.testing.assert_close(features.cls, tensors["out.cls"], atol=1e-5, rtol=0)
    torch.testing.assert_close(features.patches, tensors["out.patches"], atol=1e-5, rtol=0)


def peer_name(key: str) -> str:
    """Rename one of our keys to torchvision's: features.{0,2,4,6} shrink, features.{1,3,5,7} are the blocks."""
    shrink = re.fullmatch(r"downsample_layers\.(\d)\.(.*)", key)
    if shrink:
        return f"features.{2 * int(shrink[1])}.{shrink[2]}"
    block = re.fullmatch(r"stages\.(\d)\.(\d+)\.(\w+)(.*)", key)
    if block is None:
        return key.replace("norm", "classifier.0")
    stage = f"features.{2 * int(block[1]) + 1}.{block[2]}"
    return f"{stage}.layer_scale" if block[3] == "gamma" else f"{stage}.block.{INNER[block[3]]}{block[4]}"


def peer_pair() -> tuple[ConvNeXt, nn.Module]:
    """Build both with the same random weights, large enough for every branch to count."""
    model = ConvNeXt(ConvNeXtConfig(dims=DIMS, depths=DEPTHS)).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3, generator=generator)
    outs = (*DIMS[1:], None)
    settings = [peer.CNBlockConfig(dim, out, depth) for dim, out, depth in zip(DIMS, outs, DEPTHS)]
    theirs = peer.ConvNeXt(settings, num_classes=1).eval()
    weights: dict[str, Tensor] = {}
    for key, value in model.state_dict().items():
        weights[peer_name(key)] = value[:, None, None] if key.endswith("gamma") else value
    assert theirs.load_state_dict(weights, strict=False).missing_keys == ["classifier.2.weight", "classifier.2.bias"]
    return model, theirs


@torch.no_grad()
@pytest.mark.parametrize(("height", "width"), [(64, 96), (75, 33), (95, 64)])
def test_every_stage_is_that_of_torchvision_at_any_size(height: int, width: int) -> None:
    model, theirs = peer_pair()
    images = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(4))
    maps = images
    for index, features in enumerate(model.intermediate(images, 4, norm=False)):
        maps = theirs.features[2 * index + 1](theirs.features[2 * index](maps))
        scale = maps.abs().max().item()  # of float32 sums: relative to the largest value, not to each
        torch.testing.assert_close(features.maps, maps, atol=1e-5 * scale, rtol=0)
    pooled = theirs.classifier[0](maps.mean(dim=(2, 3), keepdim=True)).flatten(1)
    torch.testing.assert_close(model(images).cls, pooled, atol=1e-4, rtol=0)
