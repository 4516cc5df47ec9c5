"""Renaming weights between two layouts by one table, read in both directions.

A table maps our names to theirs, one line per tensor:

    "blocks.#.norm1.*":         "layer.#.norm1.*"
    "blocks.#.attn.qkv.weight": "layer.#.q.weight + layer.#.k.weight + layer.#.v.weight"
    "stages.#.#.dwconv.*":      "stages.#.layers.#.depthwise_conv.*"

# stands for any number and * for the last part of a name: weight, bias, running_mean. Both sides hold the same ones in
the same order. Names joined by + are stacked along the first axis, so a line also splits (one to three) or packs (two
to one). An empty name is a part that the other side does not store: it is left out on the way there and zero on the
way back.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from dinokit.core.messages import UserError
from dinokit.models import block, convnets, vit
from dinokit.models.architecture import Architecture, build
from dinokit.peers import huggingface

State = dict[str, Tensor]
Table = Mapping[str, str]
Line = tuple[tuple[str, ...], tuple[str, ...]]  # names whose tensors, stacked, are those of the other names, stacked
Family = Literal["dino", "dinov2", "dinov3", "convnext", "resnet"]

# what only training uses; a layout that has no place for it still computes the same features
FOR_TRAINING = re.compile(r"mask_token|local_cls_norm\.(weight|bias)")
PERIODS = "rope_embed.periods"
CONFIG, PREPROCESSOR = huggingface.CONFIG, huggingface.PREPROCESSOR
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


def family(config: Architecture) -> Family:
    """Say in which generation's layout a network belongs."""
    match config:
        case convnets.ConvNeXtConfig():
            return "convnext"
        case convnets.ResNetConfig():
            return "resnet"
    if config.position == "rope":
        return "dinov3"
    return "dino" if config.layer_scale is None else "dinov2"


def outline(config: Architecture) -> State:
    """Return the weights of an architecture without memory: names and shapes."""
    with torch.device("meta"):
        return dict(build(config).state_dict())


def periods(config: Architecture, rounded: object) -> State:
    """Return the RoPE periods that layouts without them leave to be computed; nothing without RoPE.

    Args:
        rounded: "bfloat16" for those of the official DINOv3 releases; None for exact ones.
    Raises:
        UserError: if it is something else.
    """
    if not isinstance(config, vit.Config) or config.position != "rope":
        return {}
    if rounded not in (None, "bfloat16"):
        raise UserError(f"config.json: rope_periods must be 'bfloat16' or absent, got {rounded!r}")
    exact = block.periods(config.dim // config.heads // 4, config.rope)
    return {PERIODS: exact if rounded is None else exact.bfloat16().float()}


def rounding(config: Architecture, state: Mapping[str, Tensor]) -> str | None:
    """Say how the RoPE periods of a model are rounded, for `periods` to restore.

    Raises:
        UserError: if they are not those of its configuration.
    """
    for rounded in (None, "bfloat16"):
        expected = periods(config, rounded)
        # not equality: powers computed on another machine may differ in the last bit
        if all(torch.allclose(state[key].cpu(), value, rtol=1e-6, atol=0) for key, value in expected.items()):
            return rounded
    raise UserError(
        "the model's RoPE periods are not those of its base, exact or rounded to bfloat16; they cannot be computed, "
        "only kept as they are, which the layouts official and dinokit do"
    )


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
