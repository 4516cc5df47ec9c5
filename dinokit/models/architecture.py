"""Every backbone by its name: its kind, as a weights file or a config.yaml says it, or a published architecture.

A new kind is a file that defines its config, which names the kind, and the network, and a line in each of the three
places below: loading, training and the untrained baseline of an evaluation then know it. Published sizes are one line
each, with two small ViTs for small data: DINO (arXiv:2104.14294, table 1), DINOv2 (arXiv:2304.07193, table 16;
registers: arXiv:2309.16588), DINOv3 (arXiv:2508.10104, section 5); ConvNeXt (arXiv:2201.03545, section 2).
"""

from collections.abc import Mapping
from dataclasses import fields, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from dinokit.config import converter, from_plain, to_plain
from dinokit.core.messages import unknown_name
from dinokit.models.convnets import ConvNeXt, ConvNeXtConfig, ResNet, ResNetConfig
from dinokit.models.rope import RopeConfig
from dinokit.models.vit import Config as VitConfig
from dinokit.models.vit import VisionTransformer

Architecture = VitConfig | ConvNeXtConfig | ResNetConfig
Network = VisionTransformer | ConvNeXt | ResNet
KINDS: dict[str, tuple[type[Architecture], type[Network]]] = {
    "vit": (VitConfig, VisionTransformer),
    "convnext": (ConvNeXtConfig, ConvNeXt),
    "resnet": (ResNetConfig, ResNet),
}


def build(architecture: Architecture, *, seed: int = 0) -> Network:
    """Build a backbone on torch's default device with initial values from the seed."""
    network: Any = KINDS[architecture.kind][1]
    built: Network = network(architecture, seed=seed)
    return built


def outline(architecture: Architecture) -> dict[str, Tensor]:
    """Return the weights of an architecture without memory: names and shapes."""
    return dict(_outlined(architecture))


@lru_cache(maxsize=16)  # a model is often checked once as a file of its layout and once as ours
def _outlined(architecture: Architecture) -> Mapping[str, Tensor]:
    with torch.device("meta"):
        return build(architecture).state_dict()


def described(plain: Mapping[str, Any]) -> Architecture:
    """Read settings, or raise UserError; those that name no kind are a transformer's, as before there were others."""
    kind = str(plain.get("kind", "vit"))
    if kind not in KINDS:
        raise unknown_name("kind of backbone", kind, list(KINDS))
    architecture: Architecture = from_plain(KINDS[kind][0], plain)
    return architecture


def swiglu_hidden(dim: int, *, ratio: float) -> int:
    """Width of a SwiGLU with the parameters of an MLP of `ratio`: 2/3 of it, rounded up to a multiple of 8."""
    reduced = int(int(dim * ratio) * 2 / 3)
    return reduced + -reduced % 8


ROTARY = RopeConfig(rescale=2.0)  # of DINOv3


def _dino(dim: int, patch_size: int) -> VitConfig:
    return VitConfig(
        patch_size=patch_size,
        dim=dim,
        heads=dim // 64,
        registers=0,
        mask_token=False,
        ffn_hidden=4 * dim,
        qkv_bias="qkv",
        position="offset",
        position_grid=224 // patch_size,
        layer_scale=None,
        norm_eps=1e-6,
        init="dino",
    )


def _dinov2(dim: int, depth: int, *, registers: int = 0, swiglu: bool = False) -> VitConfig:
    return VitConfig(
        patch_size=14,
        dim=dim,
        depth=depth,
        heads=dim // 64,
        registers=registers,
        ffn="swiglu" if swiglu else "mlp",
        ffn_hidden=swiglu_hidden(dim, ratio=4.0) if swiglu else 4 * dim,
        qkv_bias="qkv",
        position="antialias" if registers else "offset",
        position_grid=518 // 14,
        norm_eps=1e-6,
        init="dinov2",
    )


def _dinov3(dim: int, depth: int, *, swiglu_ratio: float | None = None) -> VitConfig:
    return VitConfig(
        dim=dim,
        depth=depth,
        heads=dim // 64,
        ffn="mlp" if swiglu_ratio is None else "swiglu",
        ffn_hidden=4 * dim if swiglu_ratio is None else swiglu_hidden(dim, ratio=swiglu_ratio),
        rope=ROTARY,
    )


def _small(dim: int, depth: int, *, heads: int, patch_size: int) -> VitConfig:
    # few blocks and short runs: without a LayerScale near zero the branches contribute from the first step
    return VitConfig(
        patch_size=patch_size,
        dim=dim,
        depth=depth,
        heads=heads,
        registers=0,
        ffn_hidden=4 * dim,
        layer_scale=0.1,
        rope=ROTARY,
    )


VARIANTS: dict[str, VitConfig] = {
    "vit_micro": _small(128, 6, heads=4, patch_size=4),  # 1.2M parameters: images of about 32 px on a CPU
    "vit_tiny": _small(192, 12, heads=3, patch_size=8),  # 5.4M parameters: images of about 64 px
    "dino_vits16": _dino(384, 16),
    "dino_vits8": _dino(384, 8),
    "dino_vitb16": _dino(768, 16),
    "dino_vitb8": _dino(768, 8),
    "dinov2_vits14": _dinov2(384, 12),
    "dinov2_vitb14": _dinov2(768, 12),
    "dinov2_vitl14": _dinov2(1024, 24),
    "dinov2_vitg14": _dinov2(1536, 40, swiglu=True),
    "dinov2_vits14_reg": _dinov2(384, 12, registers=4),
    "dinov2_vitb14_reg": _dinov2(768, 12, registers=4),
    "dinov2_vitl14_reg": _dinov2(1024, 24, registers=4),
    "dinov2_vitg14_reg": _dinov2(1536, 40, registers=4, swiglu=True),
    "dinov3_vits16": _dinov3(384, 12),
    "dinov3_vits16plus": _dinov3(384, 12, swiglu_ratio=6.0),
    "dinov3_vitb16": _dinov3(768, 12),
    "dinov3_vitl16": _dinov3(1024, 24),
    "dinov3_vitl16plus": _dinov3(1024, 24, swiglu_ratio=6.0),
    "dinov3_vith16plus": _dinov3(1280, 32, swiglu_ratio=6.0),
    "dinov3_vit7b16": replace(
        _dinov3(4096, 40), heads=32, ffn="swiglu", ffn_hidden=8192, qkv_bias="none", untie_local_cls_norm=True
    ),
}

CONVNETS: dict[str, ConvNeXtConfig | ResNetConfig] = {
    "dino_resnet50": ResNetConfig(),
    "dinov3_convnext_tiny": ConvNeXtConfig(dims=(96, 192, 384, 768), depths=(3, 3, 9, 3)),
    "dinov3_convnext_small": ConvNeXtConfig(dims=(96, 192, 384, 768), depths=(3, 3, 27, 3)),
    "dinov3_convnext_base": ConvNeXtConfig(dims=(128, 256, 512, 1024), depths=(3, 3, 27, 3)),
    "dinov3_convnext_large": ConvNeXtConfig(dims=(192, 384, 768, 1536), depths=(3, 3, 27, 3)),
}

ARCHITECTURES: dict[str, Architecture] = {**VARIANTS, **CONVNETS}

# settings that change no feature in evaluation, or that published weights come with or without
OPTIONAL = {"rope", "init", "drop_path", "drop_path_shape", "layer_scale", "mask_token", "untie_local_cls_norm"}


def is_a(config: Architecture, name: str) -> bool:
    """Tell whether weights of this configuration can be those of a published architecture."""
    published = ARCHITECTURES[name]
    settings = [field.name for field in fields(published) if field.name not in {*OPTIONAL, "qkv_bias"}]
    return config.kind == published.kind and all(getattr(config, s) == getattr(published, s) for s in settings)


def published_heads(dim: int, *, rotary: bool) -> int | None:
    """Return how many heads of attention published transformers of a width have; None if there are none."""
    published = (config for name, config in VARIANTS.items() if name.startswith("dino"))
    alike = [config.heads for config in published if (config.dim, config.position == "rope") == (dim, rotary)]
    return alike[0] if alike else None


def nearest(config: Architecture) -> str:
    """Name the architecture that shares the most with a configuration: first the width, then the number of settings."""
    shared: dict[str, tuple[bool, int]] = {}
    for name, other in ARCHITECTURES.items():
        if other.kind == config.kind:
            equal = sum(getattr(config, field.name) == getattr(other, field.name) for field in fields(config))
            shared[name] = config.dim == other.dim, equal
    return max(shared, key=shared.__getitem__)


def named(word: str) -> str:
    """Return an architecture's name, or raise UserError; it may have hyphens, and lack the family if it is DINOv3."""
    name = word.replace("-", "_")
    known = next((each for each in (name, f"dinov3_{name}") if each in ARCHITECTURES), None)
    if known is None:
        raise unknown_name("architecture", word, ARCHITECTURES)
    return known


def _structure(value: Any, _: Any) -> Architecture:
    """Read a backbone's settings: those of its kind, or of an architecture by name and what differs from it."""
    plain = {"kind": value} if isinstance(value, str) else value
    if not isinstance(plain, Mapping):
        raise TypeError(f"expected the settings of a backbone or the name of an architecture, got {value!r}")
    kind = str(plain.get("kind", "vit"))
    if kind in KINDS:
        return described(plain)
    published = to_plain(ARCHITECTURES[named(kind)])
    return described({**published, **plain, "kind": published["kind"]})


converter.register_structure_hook(Architecture, _structure)
