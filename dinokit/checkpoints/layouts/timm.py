"""Networks of timm: VisionTransformer (DINO, DINOv2), Eva (DINOv3), ConvNeXt and ResNet.

DINO, DINOv2 without registers, and ResNets have the official names, without the mask token. What else differs:

- the giants of DINOv2 pack gate and value into mlp.fc1;
- with registers, DINOv2's CLS position is added to cls_token, and pos_embed holds patches only;
- DINOv3's Eva keeps biases of queries and values, computes exact RoPE periods, and its SwiGLU has names of its own;
- ConvNeXt counts its last norm to the head, where it is applied to the mean of the map alone: what timm returns per
  cell is not normed.

Weights loaded from timm keep the official definitions: timm resizes every table of positions with antialiasing, which
is DINOv2's way with registers but not that of the others (tests/checkpoints/test_timm.py measures it).
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dinokit.checkpoints.layouts import infer, keymap, official, timm_json
from dinokit.checkpoints.layouts.json_files import CONFIG
from dinokit.checkpoints.layouts.keymap import Exported, State, Table
from dinokit.core.errors import UserError
from dinokit.models import convnext, resnet, vit
from dinokit.models.architecture import Architecture, Network
from dinokit.models.convnet import STAGES

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
    **{f"downsample_layers.{stage}.#.*": f"stages.{stage}.downsample.#.*" for stage in range(1, STAGES)},
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


def matches(state: Mapping[str, Tensor], about: Mapping[str, Any]) -> bool:
    """Say whether these are weights of timm: by their names, or, where those are official as well, by config.json."""
    if any(CONV.match(key) for key in state):
        return True
    if "architecture" in about and (QKV in state or any(key.startswith(infer.RESNET) for key in state)):
        return True
    if QKV not in state or "storage_tokens" in state or "register_tokens" in state:
        return False
    return "reg_token" in state or _rotary(state) or _packed(state)


def recognise(theirs: Mapping[str, Tensor], about: Mapping[str, Any], *, file: str) -> tuple[Architecture, State]:
    """Return the architecture and the weights under our names.

    Args:
        theirs: of a whole file, without a classification head.
        about: content of config.json; without it, heads are 64 wide (128 in the 7B).
        file: for the messages.
    Raises:
        UserError: if config.json asks for what we do not compute, or listing, under their names, the keys that are
            missing, unexpected or misshapen.
    """
    table = _table_of(theirs)
    ours = keymap.to_ours(theirs, table)
    config: Architecture
    if QKV in theirs:
        config, ours = _transformer(ours, about, rotary=_rotary(theirs))
    else:
        config = infer.convnet(ours)
    timm_json.check(config, about)
    official.check_shapes(_weights(config, keymap.outline(config)), theirs, config=config, file=file)
    return config, ours


def check_pooling(state: Mapping[str, Tensor], about: Mapping[str, Any], *, file: str) -> None:
    """Refuse a head of timm that sees something else than CLS; what it sees is in config.json alone.

    Args:
        state: of a whole file, timm's or not.
        about: content of config.json.
        file: for the message.
    """
    if QKV in state and matches(state, about) and about.get("global_pool") != "token":
        raise UserError(
            f"expected global_pool 'token' in the {CONFIG} beside {file}, got {about.get('global_pool')!r}; "
            "other heads of timm cannot be loaded"
        )


def export(backbone: Network) -> Exported:
    """Rename a model's weights and write its config.json; who calls this reads the result back.

    What only training uses is left out.
    """
    config, state = backbone.config, backbone.state_dict()
    return Exported(_weights(config, state), timm_json.written(backbone, keymap.rounding(config, state)))


def _transformer(ours: State, about: Mapping[str, Any], *, rotary: bool) -> tuple[vit.Config, State]:
    """Return the architecture, and the weights with what timm does not store."""
    heads = timm_json.heads(about)
    if not rotary and "register_tokens" in ours and ours["pos_embed"].ndim == 3:
        ours["pos_embed"] = torch.cat([torch.zeros_like(ours["pos_embed"][:, :1]), ours["pos_embed"]], dim=1)
    if rotary:
        ours |= keymap.placeholder(ours, heads)
    config = infer.transformer(ours, heads=heads)
    return config, ours | keymap.periods(config, about.get(keymap.ROUNDED))


def _weights(config: Architecture, state: Mapping[str, Tensor]) -> State:
    table = dict(_table(config))
    if isinstance(config, vit.Config) and config.position == "rope" and config.qkv_bias == "qkv":
        del table["blocks.#.attn.qkv.bias"]  # Eva has no key bias
    found = keymap.to_theirs(state, table)
    if isinstance(config, vit.Config) and config.position != "rope" and config.registers:
        table_of_positions = found["pos_embed"]
        found["cls_token"] = found["cls_token"] + table_of_positions[:, :1]
        found["pos_embed"] = table_of_positions[:, 1:]
    return found


def _table(config: Architecture) -> Table:
    match config:
        case convnext.Config():
            return CONVNEXT
        case resnet.Config():
            return RESNET
    return _of_transformer(rotary=config.position == "rope", swiglu=config.ffn == "swiglu")


def _table_of(theirs: Mapping[str, Tensor]) -> Table:
    if QKV in theirs:
        swiglu = "blocks.0.mlp.fc1_g.weight" in theirs or _packed(theirs)
        return _of_transformer(rotary=_rotary(theirs), swiglu=swiglu)
    return RESNET if any(key.startswith(infer.RESNET) for key in theirs) else CONVNEXT


def _of_transformer(*, rotary: bool, swiglu: bool) -> Table:
    ffn = (SPLIT if rotary else PACKED) if swiglu else MLP
    return {**SAME, **(ROTARY if rotary else LEARNED), **ffn}


def _rotary(state: Mapping[str, Tensor]) -> bool:
    return "pos_embed" not in state and "rope_embed.periods" not in state


def _packed(state: Mapping[str, Tensor]) -> bool:
    inner, outer = (state.get(f"blocks.0.mlp.{name}.weight") for name in ("fc1", "fc2"))
    return (
        inner is not None and outer is not None and inner.ndim == outer.ndim == 2 and len(inner) == 2 * outer.shape[1]
    )
