"""Our vision transformer against numbers of the official repositories (tests/golden/README.md).

Tolerance 1e-5: float32 sums in another order; every wrong convention tried (LayerNorm epsilon 1e-6 for 1e-5, size for
scale-factor resizing, swapped gate and value, swapped axes of RoPE) is off by at least 1e-4.
"""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dinokit.checkpoints.layouts.recognise import recognise
from dinokit.models.features import Features
from dinokit.models.vit import VisionTransformer

GOLDEN = Path(__file__).parent.parent / "golden"
DINOV3 = ("dinov3_vit_mlp", "dinov3_vit_swiglu", "dinov3_vit_swiglu64_nobias")
DINOV2 = ("dinov2_vit_plain", "dinov2_vit_registers", "dinov2_vit_giant_style")


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


def build(name: str, *, heads: int | None = None) -> tuple[VisionTransformer, dict[str, Tensor]]:
    tensors = load_file(GOLDEN / f"{name}.safetensors")
    weights = {key.removeprefix("w."): value for key, value in tensors.items() if key.startswith("w.")}
    config, state, *_ = recognise(weights, {}, file=name, heads=heads)
    model = VisionTransformer(config, seed=0).eval()
    model.load_state_dict(state)
    return model, tensors


def check(features: Features, tensors: dict[str, Tensor], prefix: str) -> None:
    for name in ("cls", "registers", "patches"):
        expected = tensors.get(f"out.{prefix}{name}")
        if expected is not None:
            close(getattr(features, name), expected)


@torch.no_grad()
@pytest.mark.parametrize("name", DINOV3)
def test_dinov3_reproduces_the_official_features(name: str) -> None:
    model, tensors = build(name)
    images = tensors["in.images"]
    check(model(images), tensors, "plain.")
    check(model(images, masks=tensors["in.masks"]), tensors, "masked.")
    for index, features in enumerate(model.intermediate(images, [0, model.config.depth - 1])):
        check(features, tensors, f"layer{index}.")


@torch.no_grad()
@pytest.mark.parametrize("name", DINOV2)
def test_dinov2_reproduces_the_official_features(name: str) -> None:
    model, tensors = build(name, heads=3)
    check(model(tensors["in.images"]), tensors, "")
    check(model(tensors["in.native"]), tensors, "native.")


@torch.no_grad()
def test_dino_reproduces_the_official_features_and_attention() -> None:
    model, tensors = build("dino_v1_vit", heads=3)
    features = model(tensors["in.images"])
    check(features, tensors, "")
    close(torch.cat([features.cls[:, None], features.patches], dim=1), tensors["out.tokens"])
    check(model(tensors["in.native"]), tensors, "native.")
    close(model.attention(tensors["in.images"], model.config.depth - 1), tensors["out.attention"])


@torch.no_grad()
def test_periods_are_used_as_stored() -> None:
    model, tensors = build("dinov3_vit_mlp")
    model.rope_embed.periods.mul_(1.01)  # as much as bfloat16 rounding may change them
    difference = model(tensors["in.images"]).patches - tensors["out.plain.patches"]
    assert difference.abs().max() > 1e-4
