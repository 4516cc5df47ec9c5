"""Renaming weights between two layouts by one table, read in both directions.

A table maps our names to theirs, one line per tensor:

    "blocks.#.norm1.*":        "layer.#.norm1.*"                    # is any block, * is weight and bias
    "blocks.#.attn.qkv.weight": "layer.#.q.weight + layer.#.k.weight + layer.#.v.weight"

Names joined by + are stacked along the first axis, so a line also splits (one to three) or packs (two to one). An empty
name is a part that the other side does not store: it is left out on the way there and zero on the way back.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from dinokit.core.errors import UserError
from dinokit.models import rope, vit

State = dict[str, Tensor]
Table = Mapping[str, str]
Family = Literal["dino", "dinov2", "dinov3"]

# what only training uses; a layout that has no place for it still computes the same features
FOR_TRAINING = re.compile(r"mask_token|local_cls_norm\.(weight|bias)")
PERIODS = "rope_embed.periods"
ROUNDED = "rope_periods"  # our entry in their config.json: they ignore it and compute exact periods


class Exported(NamedTuple):
    """Weights in another layout, and the JSON files that go beside them."""

    weights: State
    files: dict[str, object]  # by file name


class Rule(NamedTuple):
    """Tensors of ours that hold the same numbers as tensors of theirs, stacked along the first axis."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]


def rules(table: Table, blocks: Iterable[int]) -> list[Rule]:
    """Write a table out for these blocks, weights and biases."""
    numbers = sorted(blocks)
    found = []
    for ours, theirs in table.items():
        for kind in ("weight", "bias") if "*" in ours else ("",):
            for number in numbers if "#" in ours else (0,):
                sides = (side.replace("*", kind).replace("#", str(number)).split("+") for side in (ours, theirs))
                mine, other = (tuple(name.strip() for name in names) for names in sides)
                found.append(Rule(mine, other))
    return found


def to_theirs(state: Mapping[str, Tensor], table: list[Rule]) -> State:
    """Rename our weights; what no rule names is left out."""
    return _moved(state, ((rule.ours, rule.theirs) for rule in table))


def to_ours(state: Mapping[str, Tensor], table: list[Rule]) -> State:
    """Rename their weights; what no rule names, or is there only in part, is left out."""
    return _moved(state, ((rule.theirs, rule.ours) for rule in table))


def numbers(names: Iterable[str], pattern: str) -> set[int]:
    """Collect the block numbers in names; the pattern has one group."""
    return {int(match[1]) for name in names if (match := re.match(pattern, name))}


def family(config: vit.Config) -> Family:
    """Say in which generation's layout a transformer belongs."""
    if config.position == "rope":
        return "dinov3"
    return "dino" if config.layer_scale is None else "dinov2"


def outline(config: vit.Config) -> State:
    """Return the weights of an architecture without memory: names and shapes."""
    with torch.device("meta"):
        return dict(vit.VisionTransformer(config).state_dict())


def periods(config: vit.Config, rounded: object) -> State:
    """Return the RoPE periods that layouts without them leave to be computed; nothing without RoPE.

    Args:
        rounded: "bfloat16" for those of the official DINOv3 releases; None for exact ones.
    Raises:
        UserError: if it is something else.
    """
    if config.position != "rope":
        return {}
    if rounded not in (None, "bfloat16"):
        raise UserError(f"config.json: rope_periods must be 'bfloat16' or absent, got {rounded!r}")
    exact = rope.periods(config.dim // config.heads // 4, config.rope)
    return {PERIODS: exact if rounded is None else exact.bfloat16().float()}


def placeholder(state: Mapping[str, Tensor], heads: int | None) -> State:
    """Return empty RoPE periods, by which `official.infer` sees DINOv3 and its number of heads.

    Args:
        heads: without it, a head is 64 wide, or 128 in the 7B as published.
    Raises:
        UserError: if the heads do not divide the width.
    """
    weight = state.get("patch_embed.proj.weight")
    dim = len(weight) if weight is not None and weight.ndim else 0  # `infer` says what is wrong
    width = 128 if dim == 4096 else 64
    if heads is not None and dim % heads == 0:
        width = dim // heads
    elif heads is not None:
        raise UserError(f"config.json: {heads} heads do not divide the width {dim}")
    return {PERIODS: torch.empty(width // 4)}


def rounding(config: vit.Config, state: Mapping[str, Tensor]) -> str | None:
    """Say how the RoPE periods of a model are rounded, for `periods` to restore.

    Raises:
        UserError: if they are not those of its configuration.
    """
    for rounded in (None, "bfloat16"):
        expected = periods(config, rounded)
        # not equality: powers computed on another machine may differ in the last bit
        if all(torch.allclose(state[key].cpu(), value, rtol=1e-6, atol=0) for key, value in expected.items()):
            return rounded
    raise UserError("the model's RoPE periods are not those of its base; only --to official and --to dinokit keep them")


def _moved(state: Mapping[str, Tensor], pairs: Iterable[tuple[tuple[str, ...], tuple[str, ...]]]) -> State:
    found: State = {}
    for sources, targets in pairs:
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
