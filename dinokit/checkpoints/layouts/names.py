"""Names of weights: renamed between layouts by one table, and the architecture that our names and their shapes imply.

A table maps our names to theirs, one line per tensor, and is read in both directions:

    "blocks.#.norm1.*":         "layer.#.norm1.*"
    "blocks.#.attn.qkv.weight": "layer.#.q.weight + layer.#.k.weight + layer.#.v.weight"
    "stages.#.#.dwconv.*":      "stages.#.layers.#.depthwise_conv.*"

# stands for any number and * for the last part of a name: weight, bias, running_mean. Both sides hold the same ones in
the same order. Names joined by + are stacked along the first axis, so a line also splits (one to three) or packs (two
to one). An empty name is a part that the other side does not store: it is left out on the way there and zero on the
way back.

Foreign files carry no configuration, or one that says less than the weights. Most of what is read off names and shapes
need not be right: the weights are compared with the network built from it, key by key, before they are loaded. Only the
number of heads, epsilon and how positions are resized leave no shape behind: unless a config.json knows better, they
are those of the releases, and a width that no release has is refused.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from dinokit.core.messages import UserError, listed
from dinokit.models import convnets, vit
from dinokit.models.architecture import ROTARY, Architecture, nearest, published_heads

State = dict[str, Tensor]
Table = Mapping[str, str]
Line = tuple[tuple[str, ...], tuple[str, ...]]  # names whose tensors, stacked, are those of the other names, stacked
Family = Literal["dino", "dinov2", "dinov3", "convnext", "resnet"]

# what only training uses; a layout that has no place for it still computes the same features
FOR_TRAINING = re.compile(r"mask_token|local_cls_norm\.(weight|bias)")
PERIODS = "rope_embed.periods"
CONVNEXT, RESNET = "downsample_layers.", "layer1."  # how names begin that no other network has
CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
LICENCE = "license"  # in config.json, as timm spells it
ROUNDED = "rope_periods"  # our entry in their config.json: they ignore it and compute exact periods


class Exported(NamedTuple):
    """Weights in another layout, and the JSON files that go beside them."""

    weights: State
    files: dict[str, object]  # by file name


def to_theirs(state: Mapping[str, Tensor], table: Table) -> State:
    """Rename our weights; what no line names is left out."""
    return _moved(state, _written_out(table.items(), state))


def to_ours(state: Mapping[str, Tensor], table: Table) -> State:
    """Rename their weights; what no line names, or is there only in part, is left out."""
    return _moved(state, _written_out(((theirs, ours) for ours, theirs in table.items()), state))


def unnamed(state: Mapping[str, Tensor], table: Table) -> State:
    """Return those of our weights that no line names."""
    named = {name for ours, _ in _written_out(table.items(), state) for name in ours}
    return {name: value for name, value in state.items() if name not in named}


def backbone(state: Mapping[str, Tensor], *, heads: int | None = None) -> Architecture:
    """Read the configuration of a backbone of any kind.

    Args:
        state: under our names, see `recognise.parts`.
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
            depths=tuple(_depth(state, f"layer{stage + 1}", stage) for stage in range(convnets.STAGES)),
        )
    # the first convolution stands before its norm, the others behind theirs
    convolutions = [f"downsample_layers.{stage}.{min(stage, 1)}" for stage in range(convnets.STAGES)]
    return convnets.ConvNeXtConfig(
        channels=_channels(state, f"{convolutions[0]}.weight"),
        dims=tuple(
            _length(state, f"{name}.weight", f"{name}.bias", f"stages.{stage}.0.gamma")
            for stage, name in enumerate(convolutions)
        ),
        depths=tuple(_depth(state, f"stages.{stage}", stage) for stage in range(convnets.STAGES)),
    )


def transformer(state: Mapping[str, Tensor], *, heads: int | None, rotary: bool) -> vit.Config:
    """Read the configuration of a transformer; see `backbone`.

    Args:
        rotary: it has RoPE, whose periods the state may lack.
    """
    dim, channels, patch_size, _ = _shape(state, "patch_embed.proj.weight", axes=4)
    swiglu = "blocks.0.mlp.w1.weight" in state
    scaled = "blocks.0.ls1.gamma" in state
    registers = _shape(state, "register_tokens", axes=3)[1] if "register_tokens" in state else 0
    return vit.Config(
        patch_size=patch_size,
        channels=channels,
        dim=dim,
        depth=_depth(state, "blocks"),
        heads=_heads(state, dim, heads, rotary=rotary),
        registers=registers,
        mask_token="mask_token" in state,
        ffn="swiglu" if swiglu else "mlp",
        ffn_hidden=_shape(state, f"blocks.0.mlp.{'w1' if swiglu else 'fc1'}.weight", axes=2)[0],
        qkv_bias="none" if "blocks.0.attn.qkv.bias" not in state else "qv" if rotary else "qkv",
        position="rope" if rotary else "antialias" if registers else "offset",
        position_grid=None if rotary else _table_side(state),
        layer_scale=1e-5 if scaled else None,
        norm_eps=1e-5 if rotary else 1e-6,
        untie_cls_norm="cls_norm.weight" in state,
        untie_local_cls_norm="local_cls_norm.weight" in state,
        rope=ROTARY if rotary else vit.Config().rope,
        init="dinov3" if rotary else "dinov2" if scaled else "dino",
    )


def _shape(state: Mapping[str, Tensor], key: str, *, axes: int) -> tuple[int, ...]:
    """Return the shape of a tensor from which sizes are read; UserError without it, or with other axes."""
    if key not in state:
        raise UserError(f"not an official checkpoint: expected the key '{key}', found {listed(sorted(state))}")
    if state[key].ndim != axes:
        raise UserError(f"expected {axes} axes in '{key}', got shape {tuple(state[key].shape)}")
    return tuple(state[key].shape)


def agree(about: Mapping[str, Any], expected: Mapping[str, object]) -> None:
    """Raise a UserError for the first setting of config.json that is not what the weights say; it may be silent."""
    for name, wanted in expected.items():
        if about.get(name, wanted) != wanted:
            raise UserError(
                f"{CONFIG}: {name} {about[name]!r} is not supported with these weights; they and their architecture "
                f"have {wanted!r}"
            )


def heads_of(about: Mapping[str, Any], heads: int | None, name: str = "num_attention_heads") -> int | None:
    """Return how many heads config.json names, or else what the user says; UserError if the two differ."""
    told = positive(about, name, whole=True)
    if told is not None and heads not in (None, told):
        raise UserError(f"{CONFIG} says {told:.0f} heads of attention, not {heads}; leave heads= away, or correct it")
    return heads if told is None else int(told)


def positive(about: Mapping[str, Any], name: str, *, whole: bool = False) -> float | None:
    """Return a positive number of config.json, None if it is not there; UserError if it is something else."""
    value = about.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise UserError(f"{CONFIG}: {name} must be a positive {'whole ' * whole}number, got {value!r}")
    if whole and value % 1:
        raise UserError(f"{CONFIG}: {name} must be a whole number, got {value}")
    return float(value)


def check_shapes(
    outline: Mapping[str, Tensor], state: Mapping[str, Tensor], *, config: Architecture, file: str
) -> None:
    """Refuse weights whose names and shapes are not those of an outline.

    Args:
        outline: of the network, in the names of the file; may be on the meta device.
        state: what the file holds.
        config: what was read off the file; the nearest published architecture is named.
        file: for the message.
    Raises:
        UserError: naming the keys that are missing, unexpected or of another shape.
    """
    expected = {key: tuple(value.shape) for key, value in outline.items()}
    faults = {
        "missing": sorted(expected.keys() - state.keys()),
        "unexpected": sorted(state.keys() - expected.keys()),
        "of another shape": [
            f"{key} {tuple(state[key].shape)} instead of {shape}"
            for key, shape in expected.items()
            if key in state and tuple(state[key].shape) != shape
        ],
    }
    told = [f"{len(keys)} {fault}: {listed(keys)}" for fault, keys in faults.items() if keys]
    if told:
        raise UserError(
            f"{file} does not fit the network it describes; keys {'; '.join(told)}; the nearest architecture is "
            f"{nearest(config)}"
        )


def periods(config: Architecture, rounded: object) -> State:
    """Return the RoPE periods that layouts without them leave to be computed; nothing without RoPE.

    Args:
        rounded: "bfloat16" for those of the official DINOv3 releases; None for exact ones.
    Raises:
        UserError: if it is something else.
    """
    if config.kind != "vit" or config.position != "rope":
        return {}
    if rounded not in (None, "bfloat16"):
        raise UserError(f"config.json: rope_periods must be 'bfloat16' or absent, got {rounded!r}")
    exact = config.rope.periods(config.dim // config.heads // 4)
    return {PERIODS: exact if rounded is None else exact.bfloat16().float()}


def rounding(config: Architecture, state: Mapping[str, Tensor]) -> str | None:
    """Say how RoPE periods are rounded, for `periods` to restore; UserError if they are not those of the settings."""
    for rounded in (None, "bfloat16"):
        expected = periods(config, rounded)
        # not equality: powers computed on another machine may differ in the last bit
        if all(torch.allclose(state[key].cpu(), value, rtol=1e-6, atol=0) for key, value in expected.items()):
            return rounded
    raise UserError(
        "the model's RoPE periods are not those of its base, exact or rounded to bfloat16; they cannot be computed, "
        "only kept as they are, which the layouts official and dinokit do"
    )


def side(config: Architecture) -> int:
    """Return the size in pixels of the images that published weights of a family want."""
    return 256 if config.family in ("dinov3", "convnext") else 224


def _written_out(table: Iterable[tuple[str, str]], names: Iterable[str]) -> Iterator[Line]:
    """Write a table out for these names, of which its left sides tell."""
    known = list(names)
    for line in table:
        sources, targets = (tuple(part.strip() for part in side.split("+")) for side in line)
        patterns = [re.escape(source).replace(r"\#", r"(\d+)").replace(r"\*", r"(\w+)") for source in sources if source]
        found = (re.fullmatch(pattern, name) for name in known for pattern in patterns)
        for parts in dict.fromkeys(match.groups() for match in found if match):
            yield tuple(_filled(name, parts) for name in sources), tuple(_filled(name, parts) for name in targets)


def _filled(name: str, parts: Iterable[str]) -> str:
    rest = iter(parts)
    return re.sub(r"[#*]", lambda _: next(rest), name)


def _moved(state: Mapping[str, Tensor], lines: Iterable[Line]) -> State:
    found: State = {}
    for sources, targets in lines:
        present = [state.get(name) for name in sources if name]
        tensors = [tensor for tensor in present if tensor is not None]
        if len(tensors) < len(present) or len({tensor.shape[1:] for tensor in tensors}) != 1:
            continue
        if len(sources) == len(targets) == 1:
            found[targets[0]] = tensors[0]
            continue
        if not all(tensor.ndim for tensor in tensors):
            continue
        stacked = torch.cat([state[name] if name else torch.zeros_like(tensors[0]) for name in sources])
        if len(stacked) % len(targets):
            continue
        found |= {name: part for name, part in zip(targets, stacked.chunk(len(targets))) if name}
    return found


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
    cells = _shape(state, "pos_embed", axes=3)[1] - 1
    side = math.isqrt(cells)
    if side**2 != cells:
        raise UserError(f"pos_embed holds {cells + 1} rows, CLS included; expected one more than a square")
    return side
