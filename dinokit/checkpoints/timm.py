"""Vision transformers of timm: VisionTransformer (DINO, DINOv2) and Eva (DINOv3).

DINO and DINOv2 without registers are the official names, without the mask token. What else differs:

- the giants of DINOv2 pack gate and value into mlp.fc1;
- with registers, DINOv2's CLS position is added to cls_token, and pos_embed holds patches only;
- DINOv3's Eva keeps biases of queries and values, computes exact RoPE periods, and its SwiGLU has names of its own.

Weights loaded from timm keep the official definitions: timm resizes every table of positions with antialiasing, which
is DINOv2's way with registers but not that of the others (tests/checkpoints/test_timm.py measures it).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dinokit.checkpoints import keymap, official
from dinokit.checkpoints.keymap import Exported, State, Table
from dinokit.core.errors import UserError, unknown_name
from dinokit.core.pixels import Pixels
from dinokit.models import vit

CONFIG = "config.json"
QKV = "blocks.0.attn.qkv.weight"
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
# what model_args may hold without changing what we compute: sizes are read off the weights, the rest is for training
HARMLESS = {
    *("img_size", "patch_size", "in_chans", "num_classes", "global_pool", "embed_dim", "depth", "num_heads"),
    *("mlp_ratio", "qkv_bias", "init_values", "reg_tokens", "num_reg_tokens", "no_embed_class"),
    *("dynamic_img_size", "strict_img_size", "swiglu_mlp", "swiglu_align_to", "drop_rate", "drop_path_rate"),
    *("proj_drop_rate", "attn_drop_rate", "patch_drop_rate", "pos_drop_rate"),
}


def matches(state: Mapping[str, Tensor]) -> bool:
    """Say whether these are weights of timm that are not official names as well."""
    if QKV not in state or "storage_tokens" in state or "register_tokens" in state:
        return False
    return "reg_token" in state or _rotary(state) or _packed(state)


def recognise(theirs: Mapping[str, Tensor], about: Mapping[str, Any], *, file: str) -> tuple[vit.Config, State]:
    """Return the architecture and the weights under our names.

    Args:
        theirs: of a whole file, without a classification head.
        about: content of config.json; without it, heads are 64 wide (128 in the 7B).
        file: for the messages.
    Raises:
        UserError: if config.json asks for what we do not compute, or listing, under their names, the keys that are
            missing, unexpected or misshapen.
    """
    rotary = _rotary(theirs)
    blocks = keymap.numbers(theirs, r"blocks\.(\d+)\.")
    swiglu = "blocks.0.mlp.fc1_g.weight" in theirs or _packed(theirs)
    ours = keymap.to_ours(theirs, keymap.rules(_table(rotary=rotary, swiglu=swiglu), blocks))
    if not rotary and "register_tokens" in ours and ours["pos_embed"].ndim == 3:
        ours["pos_embed"] = torch.cat([torch.zeros_like(ours["pos_embed"][:, :1]), ours["pos_embed"]], dim=1)
    heads = _heads(about)
    if rotary:
        ours |= keymap.placeholder(ours, heads)
    config = official.infer(ours, heads=heads)
    ours |= keymap.periods(config, about.get(keymap.ROUNDED))
    official.check_shapes(_weights(config, keymap.outline(config)), theirs, config=config, file=file)
    return config, ours


def pixels(config: vit.Config, about: Mapping[str, Any]) -> Pixels:
    """Return what config.json says of images, or what the published weights want without one."""
    usual = official.pixels(config)
    data = about.get("pretrained_cfg", about)
    try:
        mean, std = data.get("mean", usual.mean), data.get("std", usual.std)
        size = data["input_size"][-1] if "input_size" in data else usual.size
        return Pixels(tuple(map(float, mean)), tuple(map(float, std)), None if size is None else int(size))
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise UserError(f"{CONFIG} is damaged: {error}") from error


def check_pooling(state: Mapping[str, Tensor], about: Mapping[str, Any], *, file: str) -> None:
    """Refuse a head of timm that sees something else than CLS; what it sees is in config.json alone.

    Args:
        state: of a whole file, timm's or not.
        about: content of config.json.
        file: for the message.
    """
    if QKV in state and (matches(state) or "architecture" in about) and about.get("global_pool") != "token":
        raise UserError(
            f"expected global_pool 'token' in the {CONFIG} beside {file}, got {about.get('global_pool')!r}; "
            "other heads of timm cannot be loaded"
        )


def export(backbone: vit.VisionTransformer) -> Exported:
    """Rename a model's weights and write the config.json by which timm.create_model("local-dir:FOLDER") builds it.

    Its `architecture` is the smallest of the generation and `model_args` holds every size: timm has no others names
    for networks that were not published. What only training uses is left out. Who calls this reads the result back.
    """
    config, state = backbone.config, backbone.state_dict()
    side = backbone.pixels.size or official.pixels(config).size
    about: dict[str, object] = {
        "architecture": _architecture(config),
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
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }
    rounded = keymap.rounding(config, state)
    if rounded:
        about[keymap.ROUNDED] = rounded  # read by us; timm computes exact ones
    return Exported(_weights(config, state), {CONFIG: about})


def _weights(config: vit.Config, state: Mapping[str, Tensor]) -> State:
    rotary = config.position == "rope"
    table = dict(_table(rotary=rotary, swiglu=config.ffn == "swiglu"))
    if rotary and config.qkv_bias == "qkv":
        del table["blocks.#.attn.qkv.bias"]  # Eva has no key bias
    found = keymap.to_theirs(state, keymap.rules(table, range(config.depth)))
    if not rotary and config.registers:
        table_of_positions = found["pos_embed"]
        found["cls_token"] = found["cls_token"] + table_of_positions[:, :1]
        found["pos_embed"] = table_of_positions[:, 1:]
    return found


def _table(*, rotary: bool, swiglu: bool) -> Table:
    ffn = (SPLIT if rotary else PACKED) if swiglu else MLP
    return {**SAME, **(ROTARY if rotary else LEARNED), **ffn}


def _rotary(state: Mapping[str, Tensor]) -> bool:
    return "pos_embed" not in state and "rope_embed.periods" not in state


def _packed(state: Mapping[str, Tensor]) -> bool:
    inner, outer = (state.get(f"blocks.0.mlp.{name}.weight") for name in ("fc1", "fc2"))
    return (
        inner is not None and outer is not None and inner.ndim == outer.ndim == 2 and len(inner) == 2 * outer.shape[1]
    )


def _heads(about: Mapping[str, Any]) -> int | None:
    arguments = about.get("model_args", {})
    if not isinstance(arguments, Mapping):
        raise UserError(f"{CONFIG}: model_args must be a table, got {arguments!r}")
    for name in arguments:
        if name not in HARMLESS:
            raise unknown_name(f"argument in model_args of {CONFIG}", name, HARMLESS)
    found = arguments.get("num_heads")
    if found is not None and (not isinstance(found, int) or found < 1):
        raise UserError(f"{CONFIG}: num_heads must be a positive whole number, got {found!r}")
    return found


def _architecture(config: vit.Config) -> str:
    kind = keymap.family(config)
    if kind == "dino":
        return "vit_small_patch16_224"
    if kind == "dinov3":
        return "vit_small_patch16_dinov3"
    size = "giant" if config.ffn == "swiglu" else "small"  # only the giant packs
    return f"vit_{size}_patch14{'_reg4' if config.registers else ''}_dinov2"


def _arguments(config: vit.Config) -> dict[str, object]:
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
