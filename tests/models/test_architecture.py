"""The published architectures, to the parameter."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dinokit.models.architecture import ARCHITECTURES, VARIANTS, build, nearest, outline, swiglu_hidden
from dinokit.models.vit import Config, VisionTransformer

# counted in the official files
PUBLISHED = {
    "dino_vits16": 21_665_664,
    "dino_vits8": 21_670_272,
    "dino_vitb16": 85_798_656,
    "dino_vitb8": 85_807_872,
    "dinov2_vits14": 22_056_576,
    "dinov2_vitb14": 86_580_480,
    "dinov2_vitl14": 304_368_640,
    "dinov2_vitg14": 1_136_480_768,
    "dinov2_vits14_reg": 22_058_112,
    "dinov2_vitb14_reg": 86_583_552,
    "dinov2_vitl14_reg": 304_372_736,
    "dinov2_vitg14_reg": 1_136_486_912,
    "dinov3_vits16": 21_601_152,
    "dinov3_vits16plus": 28_697_472,
    "dinov3_vitb16": 85_669_632,
    "dinov3_vitl16": 303_154_176,
    "dinov3_vitl16plus": 403_915_776,
    "dinov3_vith16plus": 840_633_600,
    "dinov3_vit7b16": 6_716_043_264,
    "dino_resnet50": 23_508_032,
    "dinov3_convnext_tiny": 27_820_128,
    "dinov3_convnext_small": 49_454_688,
    "dinov3_convnext_base": 87_566_464,
    "dinov3_convnext_large": 196_230_336,
}
OURS = {"vit_micro": 1_197_952, "vit_tiny": 5_380_800}


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_parameters_are_as_many_as_published(name: str) -> None:
    with torch.device("meta"):
        model = build(ARCHITECTURES[name])
    assert all(parameter.is_meta for parameter in model.parameters())  # no memory, also for 7B
    assert sum(parameter.numel() for parameter in model.parameters()) == (PUBLISHED | OURS)[name]


def test_every_published_model_is_there() -> None:
    assert ARCHITECTURES.keys() == PUBLISHED.keys() | OURS.keys()


@pytest.mark.parametrize("name", VARIANTS)
def test_the_nearest_architecture_of_a_published_one_is_itself(name: str) -> None:
    assert nearest(VARIANTS[name]) == name


def test_the_outline_asks_for_no_memory() -> None:
    assert all(value.is_meta for value in outline(VARIANTS["dinov3_vit7b16"]).values())
    small = Config(patch_size=4, dim=16, depth=1, heads=1, ffn_hidden=8)
    found = {key: value.shape for key, value in VisionTransformer(small).state_dict().items()}
    assert {key: value.shape for key, value in outline(small).items()} == found


class _Made(TorchDispatchMode):
    """Notes the largest tensor that is made off the meta device."""

    most = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        if isinstance(found, torch.Tensor) and not found.is_meta:
            self.most = max(self.most, found.numel())
        return found


def test_an_outline_makes_no_initial_value() -> None:
    absurd = Config(patch_size=4, dim=2**20, depth=1, heads=2**10, ffn_hidden=8, layer_scale=0.1, qkv_bias="qv")
    with _Made() as made:
        outline(absurd)
    assert made.most < 2**20


@pytest.mark.parametrize(
    ("dim", "ratio", "hidden"),
    [(1536, 4.0, 4096), (384, 6.0, 1536), (1280, 6.0, 5120), (4096, 3.0, 8192), (100, 4.0, 272)],
)
def test_swiglu_widths_are_those_of_the_releases(dim: int, ratio: float, hidden: int) -> None:
    assert swiglu_hidden(dim, ratio=ratio) == hidden
