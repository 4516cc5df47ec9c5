"""Networks of timm: VisionTransformer (DINO, DINOv2), Eva (DINOv3), ConvNeXt and ResNet, and their config.json.

DINO, DINOv2 without registers, and ResNets have the official names, without the mask token. What else differs:

- the giants of DINOv2 pack gate and value into mlp.fc1;
- with registers, DINOv2's CLS position is added to cls_token, and pos_embed holds patches only;
- DINOv3's Eva keeps biases of queries and values, computes exact RoPE periods, and its SwiGLU has names of its own;
- ConvNeXt counts its last norm to the head, where it is applied to the mean of the map alone: what timm returns per
  cell is not normed.

Weights loaded from timm keep the official definitions: timm resizes every table of positions with antialiasing, which
is DINOv2's way with registers but not that of the others (tests/checkpoints/layouts/test_timm.py measures it).
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dinokit.checkpoints.layouts import names
from dinokit.checkpoints.layouts.names import CONFIG, Exported, Family, State, Table
from dinokit.core.messages import UserError, unknown_name
from dinokit.models.architecture import Architecture, Network, outline

QKV = "blocks.0.attn.qkv.weight"
CONV = re.compile(r"stages\.\d+\.blocks\.\d+\.conv_dw\.")
SAME: Table = {
    "cls_token": "cls_token",
    "pos_embed": "pos_embed",
    "register_tokens": "reg_token",
    "patch_embed.proj.*": "patch_embed.proj.*",
    "blocks.#.norm1.*": "blocks.#.norm1.*",
    "blocks.#.attn.qkv.weight": "blocks.#.attn.qkv.weight",
    "blocks.#.attn.proj.*": "blocks.#.attn.proj.*",
    "blocks.#.norm2.*": "blocks.#.norm2.*",
    "norm.*": "norm.*",
}
LEARNED: Table = {
    "blocks.#.attn.qkv.bias": "blocks.#.attn.qkv.bias",
    "blocks.#.ls1.gamma": "blocks.#.ls1.gamma",
    "blocks.#.ls2.gamma": "blocks.#.ls2.gamma",
}
ROTARY: Table = {
    "blocks.#.attn.qkv.bias": "blocks.#.attn.q_bias + + blocks.#.attn.v_bias",
    "blocks.#.ls1.gamma": "blocks.#.gamma_1",
    "blocks.#.ls2.gamma": "blocks.#.gamma_2",
}
MLP: Table = {"blocks.#.mlp.fc1.*": "blocks.#.mlp.fc1.*", "blocks.#.mlp.fc2.*": "blocks.#.mlp.fc2.*"}
PACKED: Table = {
    "blocks.#.mlp.w1.* + blocks.#.mlp.w2.*": "blocks.#.mlp.fc1.*",
    "blocks.#.mlp.w3.*": "blocks.#.mlp.fc2.*",
}
SPLIT: Table = {
    "blocks.#.mlp.w1.*": "blocks.#.mlp.fc1_g.*",
    "blocks.#.mlp.w2.*": "blocks.#.mlp.fc1_x.*",
    "blocks.#.mlp.w3.*": "blocks.#.mlp.fc2.*",
}
CONVNEXT: Table = {
    "downsample_layers.0.#.*": "stem.#.*",
    **{f"downsample_layers.{stage}.#.*": f"stages.{stage}.downsample.#.*" for stage in (1, 2, 3)},
    "stages.#.#.dwconv.*": "stages.#.blocks.#.conv_dw.*",
    "stages.#.#.norm.*": "stages.#.blocks.#.norm.*",
    "stages.#.#.pwconv1.*": "stages.#.blocks.#.mlp.fc1.*",
    "stages.#.#.pwconv2.*": "stages.#.blocks.#.mlp.fc2.*",
    "stages.#.#.gamma": "stages.#.blocks.#.gamma",
    "norm.*": "head.norm.*",
}
RESNET: Table = {
    name: name for name in ("conv1.*", "bn1.*", "layer#.#.conv#.*", "layer#.#.bn#.*", "layer#.#.downsample.#.*")
}
# what model_args may hold without changing what we compute: sizes are read off the weights, the rest is for training
HARMLESS = {
    *("img_size", "patch_size", "in_chans", "num_classes", "global_pool", "embed_dim", "depth", "num_heads"),
    *("mlp_ratio", "qkv_bias", "init_values", "reg_tokens", "num_reg_tokens", "no_embed_class"),
    *("dynamic_img_size", "strict_img_size", "swiglu_mlp", "swiglu_align_to", "drop_rate", "drop_path_rate"),
    *("proj_drop_rate", "attn_drop_rate", "patch_drop_rate", "pos_drop_rate"),
}
HARMLESS_CONVNET = {
    *("in_chans", "num_classes", "global_pool", "dims", "depths", "layers", "ls_init_value", "head_init_scale"),
    *("drop_rate", "drop_path_rate", "drop_block_rate", "zero_init_last"),
}
VITS = {
    *(f"deit_{size}_patch16_224" for size in ("tiny", "small", "base")),
    *(f"vit_{size}_patch16_{side}" for size in ("tiny", "small", "base", "large") for side in (224, 384)),
    *(f"vit_{size}_patch32_{side}" for size in ("small", "base", "large") for side in (224, 384)),
    *("deit_base_patch16_384", "vit_small_patch8_224", "vit_base_patch8_224", "vit_large_patch14_224"),
}
DINOV2S = {f"vit_{size}_patch14{reg}_dinov2" for size in ("small", "base", "large", "giant") for reg in ("", "_reg4")}
DINOV3S = {
    *(f"vit_{size}_patch16_dinov3{bias}" for size in ("small", "small_plus", "base") for bias in ("", "_qkvb")),
    *(f"vit_{size}_patch16_dinov3{bias}" for size in ("large", "huge_plus") for bias in ("", "_qkvb")),
    *("vit_tiny_patch16_dinov3_qkvb", "vit_7b_patch16_dinov3"),
}
# timm has other networks with the same names and shapes: blurred (resnetblur50), of another epsilon (convnext_xxlarge),
# with 80 channels per head (vit_huge_patch14_224)
SAME_NETWORK: dict[Family, set[str]] = {
    "dino": VITS,
    "dinov2": VITS | DINOV2S,
    "dinov3": DINOV3S,
    "convnext": {f"convnext_{size}" for size in ("tiny", "small", "base", "large", "xlarge")},
    "resnet": {"resnet50", "resnet101", "resnet152", "tv_resnet50", "tv_resnet101", "tv_resnet152"},
}
AGREED = {"embed_dim", "depth", "patch_size", "in_chans"}  # of a transformer; others may be spelt otherwise


def matches(state: Mapping[str, Tensor], about: Mapping[str, Any]) -> bool:
    """Say whether these are weights of timm: by their names, or, where those are official as well, by config.json."""
    if any(CONV.match(key) for key in state):
        return True
    if "architecture" in about and (QKV in state or any(key.startswith(names.RESNET) for key in state)):
        return True
    if QKV not in state or "storage_tokens" in state or "register_tokens" in state:
        return False
    return "reg_token" in state or _rotary(state) or _packed(state)


def recognise(
    theirs: Mapping[str, Tensor], about: Mapping[str, Any], *, file: str, heads: int | None = None
) -> tuple[Architecture, State]:
    """Return the architecture and the weights under our names.

    Args:
        theirs: of a whole file, without a classification head.
        about: content of config.json; what it does not say is as published.
        file: for the messages.
        heads: of attention, where config.json does not say it.
    Raises:
        UserError: if config.json asks for what we do not compute, or listing, under their names, the keys that are
            missing, unexpected or misshapen.
    """
    transformer, rotary = QKV in theirs, _rotary(theirs)
    if transformer:
        table: Table = _of_transformer(rotary=rotary, swiglu="blocks.0.mlp.fc1_g.weight" in theirs or _packed(theirs))
    else:
        table = RESNET if any(key.startswith(names.RESNET) for key in theirs) else CONVNEXT
    ours = names.to_ours(theirs, table)
    arguments = _model_args(about, HARMLESS if transformer else HARMLESS_CONVNET)
    config: Architecture
    if transformer:
        if not rotary and "register_tokens" in ours and ours["pos_embed"].ndim == 3:
            ours["pos_embed"] = torch.cat([torch.zeros_like(ours["pos_embed"][:, :1]), ours["pos_embed"]], dim=1)
        told = names.heads_of(arguments, heads, "num_heads")
        if told is None and "architecture" in about:  # one of `SAME_NETWORK`
            told = len(theirs[QKV][0]) // (128 if "_7b_" in str(about["architecture"]) else 64) or None
        config = names.transformer(ours, heads=told, rotary=rotary)
        ours |= names.periods(config, about.get(names.ROUNDED))
    else:
        config = names.convnet(ours)
    known, name = SAME_NETWORK[config.family], about.get("architecture")
    if name is not None and name not in known:
        raise unknown_name(f"architecture in {CONFIG} for these weights", str(name), known)
    told_of = AGREED if transformer else HARMLESS_CONVNET
    names.agree(arguments, {name: value for name, value in _arguments(config).items() if name in told_of})
    names.check_shapes(_weights(config, outline(config)), theirs, config=config, file=file)
    return config, ours


def export(backbone: Network) -> Exported:
    """Rename a model's weights and write its config.json; who calls this reads the result back.

    Its `architecture` is one of the generation and `model_args` holds every size: timm has no other names for networks
    that were not published. What only training uses is left out.

    Raises:
        UserError: if timm builds no such network.
    """
    config, state = backbone.config, backbone.state_dict()
    if config.kind == "resnet" and config.width != 64:
        raise UserError(f"timm cannot express this model: its ResNets begin with 64 channels, this one {config.width}")
    family, side = config.family, backbone.pixels.size or names.side(config)
    size = "giant" if getattr(config, "ffn", "") == "swiglu" else "small"  # only the giant packs
    architecture = {
        "convnext": "convnext_tiny",
        "resnet": "resnet50",
        "dino": "vit_small_patch16_224",
        "dinov2": f"vit_{size}_patch14{'_reg4' if getattr(config, 'registers', 0) else ''}_dinov2",
        "dinov3": "vit_small_patch16_dinov3",
    }[family]
    first, classifier = {"convnext": ("stem.0", "head.fc"), "resnet": ("conv1", "fc")}.get(
        family, ("patch_embed.proj", "head")
    )
    about: dict[str, object] = {
        "architecture": architecture,
        "num_classes": 0,
        "num_features": config.dim,
        "model_args": _arguments(config),
        "pretrained_cfg": {
            "mean": list(backbone.pixels.mean),
            "std": list(backbone.pixels.std),
            "input_size": [config.channels, side, side],
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "num_classes": 0,
            "first_conv": first,
            "classifier": classifier,
            **({} if backbone.licence is None else {names.LICENCE: backbone.licence}),
        },
    }
    rounded = names.rounding(config, state)
    if rounded is not None:
        about[names.ROUNDED] = rounded  # read by us; timm computes exact ones
    return Exported(_weights(config, state), {CONFIG: about})


def _model_args(about: Mapping[str, Any], harmless: set[str]) -> Mapping[str, Any]:
    arguments = about.get("model_args", {})
    if not isinstance(arguments, Mapping):
        raise UserError(f"{CONFIG}: model_args must be a table, got {arguments!r}")
    for name in arguments:
        if name not in harmless:
            raise unknown_name(f"argument in model_args of {CONFIG}", name, harmless)
    return arguments


def _arguments(config: Architecture) -> dict[str, object]:
    """Return the model_args of a network: what is written, and what those of a file must agree with."""
    if config.kind == "convnext":
        return {"in_chans": config.channels, "dims": list(config.dims), "depths": list(config.depths)}
    if config.kind == "resnet":
        return {"in_chans": config.channels, "layers": list(config.depths)}
    swiglu, rotary = config.ffn == "swiglu", config.position == "rope"
    inner = 2 * config.ffn_hidden if swiglu and not rotary else config.ffn_hidden
    found: dict[str, object] = {
        "img_size": (config.position_grid or 14) * config.patch_size,
        "patch_size": config.patch_size,
        "in_chans": config.channels,
        "embed_dim": config.dim,
        "depth": config.depth,
        "num_heads": config.heads,
        "mlp_ratio": (inner + 0.5) / config.dim,  # timm truncates: the half keeps rounding away
        "qkv_bias": config.qkv_bias != "none",
        "init_values": config.layer_scale,
        "dynamic_img_size": True,
        "global_pool": "token",
    }
    if rotary:
        found["num_reg_tokens"] = config.registers
    elif config.registers:
        found["reg_tokens"] = config.registers
    if rotary and swiglu:
        found |= {"swiglu_mlp": True, "swiglu_align_to": 1}
    return found


def _weights(config: Architecture, state: Mapping[str, Tensor]) -> State:
    if config.kind != "vit":
        return names.to_theirs(state, CONVNEXT if config.kind == "convnext" else RESNET)
    rotary = config.position == "rope"
    table = _of_transformer(rotary=rotary, swiglu=config.ffn == "swiglu")
    if rotary and config.qkv_bias == "qkv":
        del table["blocks.#.attn.qkv.bias"]  # Eva has no key bias
    found = names.to_theirs(state, table)
    if not rotary and config.registers:
        table_of_positions = found["pos_embed"]
        found["cls_token"] = found["cls_token"] + table_of_positions[:, :1]
        found["pos_embed"] = table_of_positions[:, 1:]
    return found


def _of_transformer(*, rotary: bool, swiglu: bool) -> dict[str, str]:
    ffn = (SPLIT if rotary else PACKED) if swiglu else MLP
    return {**SAME, **(ROTARY if rotary else LEARNED), **ffn}


def _rotary(state: Mapping[str, Tensor]) -> bool:
    return "pos_embed" not in state and "rope_embed.periods" not in state


def _packed(state: Mapping[str, Tensor]) -> bool:
    inner, outer = (state.get(f"blocks.0.mlp.{name}.weight") for name in ("fc1", "fc2"))
    return (
        inner is not None and outer is not None and inner.ndim == outer.ndim == 2 and len(inner) == 2 * outer.shape[1]
    )
