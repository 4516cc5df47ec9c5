"""Weights of convolutional backbones: official files, wrapped or not, and our own."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import dinokit
from dinokit.checkpoints.layouts import names
from dinokit.checkpoints.store import header
from dinokit.core.messages import UserError
from dinokit.images.intensity import Pixels
from dinokit.models import convnets
from dinokit.models.architecture import CONVNETS, Network, build

State = dict[str, Tensor]
Config = convnets.ConvNeXtConfig | convnets.ResNetConfig
CONVNEXT = convnets.ConvNeXtConfig(dims=(4, 6, 8, 10), depths=(1, 2, 3, 1))
RESNET = convnets.ResNetConfig(width=4, depths=(2, 1, 3, 1), channels=2)
CONFIGS = pytest.mark.parametrize("config", [CONVNEXT, RESNET], ids=["convnext", "resnet"])


def official_file(config: Config, *, seed: int = 1) -> State:
    """Return a file as the releases have it: our names, and what we leave out."""
    state = dict(build(config, seed=seed).state_dict())
    if isinstance(config, convnets.ConvNeXtConfig):
        return state | {f"norms.3.{kind}": state[f"norm.{kind}"].clone() for kind in ("weight", "bias")}
    return state


def saved(value: object, folder: Path) -> Path:
    torch.save(value, folder / "weights.pth")
    return folder / "weights.pth"


def same(backbone: object, config: Config, *, seed: int = 1) -> bool:
    assert isinstance(backbone, Network)
    expected, found = build(config, seed=seed).state_dict(), backbone.state_dict()
    return found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize("name", list(CONVNETS))
def test_the_configuration_of_every_release_is_read_off_its_file(name: str) -> None:
    with torch.device("meta"):
        state = dict(build(CONVNETS[name]).state_dict())
    assert names.backbone(state) == CONVNETS[name]


@CONFIGS
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"teacher": state, "student": {}, "epoch": 3},
        lambda state: {"teacher": {f"backbone.{key}": value for key, value in state.items()}},
        lambda state: {"teacher": {f"backbone.{k}": v for k, v in state.items()} | {"head.mlp.0.bias": torch.ones(2)}},
        lambda state: {"student": {}, "teacher": {f"module.backbone.{key}": value for key, value in state.items()}},
        lambda state: {"model": {"teacher": {f"module.backbone.{key}": value for key, value in state.items()}}},
        lambda state: {"state_dict": {f"_orig_mod.{key}": value for key, value in state.items()}},
        lambda state: {f"teacher.backbone.{key}": value for key, value in state.items()},
    ],
    ids=["flat", "teacher", "backbone", "with head", "parallel", "nested", "compiled", "prefixed"],
)
def test_official_files_are_loaded_in_all_their_wrappers(
    tmp_path: Path, config: Config, wrap: Callable[[State], object]
) -> None:
    backbone = dinokit.load(saved(wrap(official_file(config)), tmp_path))
    assert same(backbone, config)
    assert not backbone.training
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert backbone.pixels == Pixels(size=256 if config is CONVNEXT else 224)


def test_a_second_norm_is_left_out_only_if_it_is_a_copy(tmp_path: Path) -> None:
    state = official_file(CONVNEXT)
    state["norms.3.bias"] += 1
    with pytest.raises(UserError, match=r"1 unexpected: norms\.3\.bias; the nearest architecture is dinov3_convnext"):
        dinokit.load(saved(state, tmp_path))


def test_the_classifier_of_a_resnet_is_left_out_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = official_file(RESNET) | {"fc.weight": torch.ones(5, 128), "fc.bias": torch.ones(5)}
    assert same(dinokit.load(saved(state, tmp_path)), RESNET)
    captured = capsys.readouterr()
    assert "fc.bias, fc.weight" in captured.out + captured.err


@pytest.mark.parametrize(
    ("config", "key", "message"),
    [
        (CONVNEXT, "stages.2.1.gamma", r"1 missing: stages\.2\.1\.gamma"),
        (CONVNEXT, "downsample_layers.2.1.weight", r"1 missing: downsample_layers\.2\.1\.weight; the nearest"),
        (RESNET, "conv1.weight", r"1 missing: conv1\.weight; the nearest"),
        (RESNET, "layer3.1.bn2.running_var", r"1 missing: layer3\.1\.bn2\.running_var"),
    ],
)
def test_a_missing_tensor_is_named(tmp_path: Path, config: Config, key: str, message: str) -> None:
    state = official_file(config)
    del state[key]
    with pytest.raises(UserError, match=message):
        dinokit.load(saved(state, tmp_path))


def test_blocks_with_a_gap_are_named_with_their_stage(tmp_path: Path) -> None:
    state = official_file(CONVNEXT) | {"stages.1.70.gamma": torch.ones(6)}
    with pytest.raises(UserError, match=r"expected blocks 0 to 2 in stage 1, got number 70"):
        dinokit.load(saved(state, tmp_path))


@CONFIGS
def test_our_own_file_brings_back_architecture_pixels_and_features(tmp_path: Path, config: Config) -> None:
    if isinstance(config, convnets.ConvNeXtConfig):
        config = replace(config, layer_scale=0.25)  # not in the weights of a trained model: only the header knows it
    backbone = build(config, seed=1).eval()
    backbone.pixels = Pixels((0.1,), (0.2,), 64)
    save_file(backbone.state_dict(), tmp_path / "m.safetensors", header(config, backbone.pixels, step=7))
    loaded = dinokit.load(tmp_path / "m.safetensors")
    assert isinstance(loaded, Network)
    assert (loaded.config, loaded.pixels) == (config, backbone.pixels)
    images = torch.randn(2, config.channels, 64, 96, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded(images).cls, backbone(images).cls)
