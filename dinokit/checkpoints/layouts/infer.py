"""The configuration of a network, read off our names and shapes.

Foreign files carry no configuration, or one that says less than the weights. Most of what is read here need not be
right: the weights are compared with the network built from it, key by key and shape by shape, before they are loaded.
Only the number of heads, epsilon and how positions are resized leave no shape behind: unless the caller is told
better by a config.json, they are those of the releases, and a width that no release has is refused.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dinokit.checkpoints.layouts.keymap import CONFIG
from dinokit.core.messages import UserError
from dinokit.models import convnets, vit
from dinokit.models.architecture import Architecture, published_heads
from dinokit.models.block import RopeConfig
from dinokit.models.convnets import STAGES

CONVNEXT, RESNET = "downsample_layers.", "layer1."  # how names begin that no other network has
SHOWN = 8  # keys per error message


def backbone(state: Mapping[str, Tensor], *, heads: int | None = None) -> Architecture:
    """Read the configuration of a backbone of any kind.

    Args:
        state: under our names, see `official.parts`.
        heads: of attention, where something else than the weights says it.
    Raises:
        UserError: if the state is not that of a backbone, or if `heads` is needed or contradicts the weights.
    """
    if any(key.startswith((CONVNEXT, RESNET)) for key in state):
        return convnet(state)
    return transformer(state, heads=heads, rotary="rope_embed.periods" in state)


def convnet(state: Mapping[str, Tensor]) -> convnets.ConvNeXtConfig | convnets.ResNetConfig:
    """Read the configuration of a convolutional network; see `backbone`."""
    if any(key.startswith(RESNET) for key in state):
        return convnets.ResNetConfig(
            channels=_channels(state, "conv1.weight"),
            width=_length(state, "conv1.weight", "bn1.weight", "layer1.0.conv1.weight"),
            depths=tuple(_depth(state, f"layer{stage + 1}", stage) for stage in range(STAGES)),
        )
    # the first convolution stands before its norm, the others behind theirs
    convolutions = [f"downsample_layers.{stage}.{min(stage, 1)}" for stage in range(STAGES)]
    return convnets.ConvNeXtConfig(
        channels=_channels(state, f"{convolutions[0]}.weight"),
        dims=tuple(
            _length(state, f"{name}.weight", f"{name}.bias", f"stages.{stage}.0.gamma")
            for stage, name in enumerate(convolutions)
        ),
        depths=tuple(_depth(state, f"stages.{stage}", stage) for stage in range(STAGES)),
    )


def transformer(state: Mapping[str, Tensor], *, heads: int | None, rotary: bool) -> vit.Config:
    """Read the configuration of a transformer; see `backbone`.

    Args:
        rotary: it has RoPE, whose periods the state may lack.
    """
    dim, channels, patch_size, _ = shape(state, "patch_embed.proj.weight", axes=4)
    swiglu = "blocks.0.mlp.w1.weight" in state
    scaled = "blocks.0.ls1.gamma" in state
    registers = shape(state, "register_tokens", axes=3)[1] if "register_tokens" in state else 0
    return vit.Config(
        patch_size=patch_size,
        channels=channels,
        dim=dim,
        depth=_depth(state, "blocks"),
        heads=_heads(state, dim, heads, rotary=rotary),
        registers=registers,
        mask_token="mask_token" in state,
        ffn="swiglu" if swiglu else "mlp",
        ffn_hidden=shape(state, f"blocks.0.mlp.{'w1' if swiglu else 'fc1'}.weight", axes=2)[0],
        qkv_bias="none" if "blocks.0.attn.qkv.bias" not in state else "qv" if rotary else "qkv",
        position="rope" if rotary else "antialias" if registers else "offset",
        position_grid=None if rotary else _table_side(state),
        layer_scale=1e-5 if scaled else None,
        norm_eps=1e-5 if rotary else 1e-6,
        untie_cls_norm="cls_norm.weight" in state,
        untie_local_cls_norm="local_cls_norm.weight" in state,
        rope=RopeConfig(rescale=2.0) if rotary else RopeConfig(),
        init="dinov3" if rotary else "dinov2" if scaled else "dino",
    )


def shape(state: Mapping[str, Tensor], key: str, *, axes: int) -> tuple[int, ...]:
    """Return the shape of a tensor from which sizes are read.

    Raises:
        UserError: if it is not there or has another number of axes.
    """
    if key not in state:
        raise UserError(f"not an official checkpoint: expected the key '{key}', found {listed(sorted(state))}")
    if state[key].ndim != axes:
        raise UserError(f"expected {axes} axes in '{key}', got shape {tuple(state[key].shape)}")
    return tuple(state[key].shape)


def listed(keys: list[str]) -> str:
    """Name some keys and say how many more there are."""
    rest = len(keys) - SHOWN
    return ", ".join(keys[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def agree(about: Mapping[str, Any], expected: Mapping[str, object]) -> None:
    """Compare what config.json says with what the weights and their architecture say; it may be silent.

    Raises:
        UserError: naming the first setting that differs.
    """
    for name, wanted in expected.items():
        if about.get(name, wanted) != wanted:
            raise UserError(
                f"{CONFIG}: {name} {about[name]!r} is not supported with these weights; they and their architecture "
                f"have {wanted!r}"
            )


def heads_of(about: Mapping[str, Any], heads: int | None, name: str = "num_attention_heads") -> int | None:
    """Return how many heads config.json names, or else what the user says.

    Raises:
        UserError: if the two differ.
    """
    told = positive(about, name, whole=True)
    if told is not None and heads not in (None, told):
        raise UserError(f"{CONFIG} says {told:.0f} heads of attention, not {heads}; leave heads= away, or correct it")
    return heads if told is None else int(told)


def positive(about: Mapping[str, Any], name: str, *, whole: bool = False) -> float | None:
    """Return a setting of config.json that must be a positive number, None if it is not there.

    Raises:
        UserError: if it is something else.
    """
    value = about.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise UserError(f"{CONFIG}: {name} must be a positive {'whole ' * whole}number, got {value!r}")
    if whole and value % 1:
        raise UserError(f"{CONFIG}: {name} must be a whole number, got {value}")
    return float(value)


def _channels(state: Mapping[str, Tensor], key: str) -> int:
    """Return the channels of the images; three, if only to say that the first convolution is missing or misshapen."""
    return state[key].shape[1] if key in state and state[key].ndim == 4 else 3


def _length(state: Mapping[str, Tensor], *keys: str) -> int:
    """Return the length of the first of these tensors that has one; what is wrong with the others is found later."""
    for key in keys:
        if key in state and state[key].ndim:
            return len(state[key])
    raise UserError(f"expected one of the keys {listed(list(keys))}; found {listed(sorted(state))}")


def _depth(state: Mapping[str, Tensor], stack: str, stage: int | None = None) -> int:
    """Count the blocks of a backbone, or of one of its stages; at least one, if only to say what is missing.

    Raises:
        UserError: if they are not numbered from 0 without gaps; a number alone would ask for any amount of memory.
    """
    found = {match[1] for key in state if (match := re.match(rf"{re.escape(stack)}\.(\d+)\.", key))}
    strange = sorted(found - {str(number) for number in range(len(found))})
    if strange:
        where = "" if stage is None else f" in stage {stage}"
        raise UserError(
            f"expected blocks 0 to {len(found) - 1}{where}, got number {strange[0]}; the file may be cut short"
        )
    return max(len(found), 1)


def _heads(state: Mapping[str, Tensor], dim: int, heads: int | None, *, rotary: bool) -> int:
    if heads is not None and (heads < 1 or dim % heads):
        raise UserError(f"{heads} heads do not divide the width {dim}; correct {CONFIG} or heads=")
    periods = state.get("rope_embed.periods")
    if periods is not None:
        width = 4 * periods.numel()  # one period per 4 channels of a head
        if not width or dim % width:
            raise UserError(f"the width {dim} is not a multiple of {width}, four times the number of RoPE periods")
        if heads not in (None, dim // width):
            raise UserError(f"the RoPE periods are those of {dim // width} heads, not of {heads}; leave heads= away")
        return dim // width
    found = heads or published_heads(dim, rotary=rotary)
    if found is None:
        raise UserError(
            f"no release has the width {dim}, so its heads of attention are not known; give them as heads= or --heads, "
            f"or put a {CONFIG} with num_attention_heads beside it"
        )
    return found


def _table_side(state: Mapping[str, Tensor]) -> int:
    cells = shape(state, "pos_embed", axes=3)[1] - 1
    side = math.isqrt(cells)
    if side**2 != cells:
        raise UserError(f"pos_embed holds {cells + 1} rows, CLS included; expected one more than a square")
    return side
