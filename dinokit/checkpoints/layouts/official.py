"""Official weights of DINO, DINOv2 and DINOv3, read and written.

The files carry no configuration, so everything is read off names and shapes (infer.py). Whatever is found must then
match the model built from it, key by key and shape by shape: a key is renamed, left out here, or an error. Names are
ours but for:

| official                      | ours                                                       |
|-------------------------------|------------------------------------------------------------|
| storage_tokens (DINOv3)       | register_tokens                                            |
| blocks.{chunk}.{i} (DINOv2)   | blocks.{i}                                                 |
| mlp.w12 (DINOv2 giant)        | mlp.w1 (gate: the first rows), mlp.w2 (value)              |
| attn.qkv.bias_mask (DINOv3)   | dropped: released files store zeros where ones are meant   |
| rope_embed.periods (DINOv3)   | the same, as stored: released ones are rounded to bfloat16 |
| norms.3 (DINOv3's ConvNeXts)  | dropped if it is what it should be, a second copy of norm  |

Written files are as released, a flat state dict, but for the mask of DINOv3's key bias: ones for queries and values.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from dinokit.checkpoints.layouts import infer, keymap
from dinokit.checkpoints.layouts.keymap import Exported, Family, State, Table
from dinokit.core.messages import UserError, info
from dinokit.images.intensity import Pixels
from dinokit.models import vit
from dinokit.models.architecture import Architecture, Network, nearest

WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
NESTED = ("model", "state_dict", "module")
AVERAGE = re.compile(
    r"(^|_)(ema|swa|teacher|avg|averaged?|shadow)(_|$)|^(target|momentum)_"
)  # names of what follows by average
DEEPEST = 4  # mappings within each other
PARTS = ("backbone", "head", "dino_head", "ibot_head", "linear_head")
OF_A_HEAD = ("mlp", "last_layer")  # timm's ConvNeXts have a `head` of another kind, with their norm in it
NETWORKS = ("teacher", "student")
COPIES = {"norms.3.weight": "norm.weight", "norms.3.bias": "norm.bias"}
PACKED: Table = {"blocks.#.mlp.w1.* + blocks.#.mlp.w2.*": "blocks.#.mlp.w12.*"}
TABLES: dict[Family, Table] = {
    "dino": PACKED,
    "dinov2": PACKED,
    "dinov3": {"register_tokens": "storage_tokens"},
    "convnext": {},
    "resnet": {},
}


def parts(checkpoint: Mapping[str, object], *, network: Literal["teacher", "student"] = "teacher") -> dict[str, State]:
    """Split a checkpoint into the backbone and its heads, as far as present: `PARTS`, under our names.

    Where it holds a network and its average, such as model and model_ema, the average is taken, and said.

    Args:
        checkpoint: a flat state dict, or a training checkpoint that nests it under teacher, student, model, ...
        network: which of the two to take if both are there.
    Raises:
        UserError: if only the other network is there, or if an entry is no tensor with a name.
    """
    named: State = {}
    for key, value in _unwrapped(checkpoint, network).items():
        if key == "n_averaged":  # how many, in torch.optim.swa_utils.AveragedModel
            continue
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise UserError(f"expected a state dict, but '{key}' is a {type(value).__name__}, not a tensor")
        path = [name for name in key.split(".") if name not in WRAPPERS] or [key]
        if path[0] in NETWORKS and len(path) > 1 and path.pop(0) != network:
            continue
        named[".".join(path)] = value
    rests: dict[str, set[str]] = defaultdict(set)  # by the first part of a name
    for name in named:
        first, _, rest = name.partition(".")
        rests[first].add(rest)
    averages = (
        (a, b) for a in rests if AVERAGE.search(a) and any(rests[a]) for b in rests if a != b and rests[a] <= rests[b]
    )
    average, other = next(averages, ("", ""))
    if average:
        info(f"of {other} and {average}, its average, {average} is taken")
        named = {name.removeprefix(f"{average}."): named[name] for name in named if name.startswith(f"{average}.")}
    found: dict[str, State] = {}
    for name, value in named.items():
        first, _, rest = name.partition(".")
        is_part = first in PARTS and rest and (first != "head" or rest.split(".")[0] in OF_A_HEAD)
        found.setdefault(first if is_part else "backbone", {}).update(_renamed(rest if is_part else name, value))
    return found


def part(checkpoint: Mapping[str, object], name: str, *, network: Literal["teacher", "student"] = "teacher") -> State:
    """Return one of the `parts` of a checkpoint.

    Raises:
        UserError: if it is not there, naming what is.
    """
    found = parts(checkpoint, network=network)
    if name not in found:
        raise UserError(f"the checkpoint holds no {name}, only: {', '.join(found) or 'nothing'}")
    return found[name]


def recognise(
    checkpoint: Mapping[str, object],
    *,
    network: Literal["teacher", "student"] = "teacher",
    heads: int | None = None,
) -> tuple[Architecture, State]:
    """Return the architecture and the weights, under our names, of the backbone in a checkpoint.

    Args:
        checkpoint: as in `parts`.
        network: as in `parts`.
        heads: as in `infer.backbone`.
    Raises:
        UserError: if there is no backbone, or none of the three releases.
    """
    state = part(checkpoint, "backbone", network=network)
    for copy, original in COPIES.items():
        first, second = state.get(copy), state.get(original)
        if first is not None and second is not None and first.dtype == second.dtype and torch.equal(first, second):
            del state[copy]
    return infer.backbone(state, heads=heads), state


def pixels(architecture: Architecture) -> Pixels:
    """Return what images the published weights want: ImageNet's statistics, 224 px, or 256 px for DINOv3.

    DINOv3 trained on satellite images wants others, which its file does not tell. TIPS, which is DINOv2's network with
    one register, wants plain values of 448 px.
    """
    family = keymap.family(architecture)
    if isinstance(architecture, vit.Config) and family == "dinov2" and architecture.registers == 1:
        return Pixels((0.0,) * 3, (1.0,) * 3, size=448)
    return Pixels(size=256 if family in ("dinov3", "convnext") else 224)


def export(backbone: Network) -> Exported:
    """Rename a model's weights; a name that no table holds stays as it is."""
    config, state = backbone.config, dict(backbone.state_dict())
    kind = keymap.family(config)
    if kind == "dino":
        state.pop("mask_token", None)  # DINO masks nothing
    found = keymap.unnamed(state, TABLES[kind]) | keymap.to_theirs(state, TABLES[kind])
    if kind == "convnext":
        found |= {copy: state[original] for copy, original in COPIES.items()}
    if isinstance(config, vit.Config) and config.qkv_bias == "qv" and kind == "dinov3":
        mask = state["cls_token"].new_ones(3, config.dim)
        mask[1] = 0
        found |= {f"blocks.{block}.attn.qkv.bias_mask": mask.flatten() for block in range(config.depth)}
    return Exported(found, {})


def check_shapes(outline: Mapping[str, Tensor], state: Mapping[str, Tensor], *, config: object, file: str) -> None:
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
    told = [f"{len(keys)} {fault}: {infer.listed(keys)}" for fault, keys in faults.items() if keys]
    if told:
        near = nearest(config) if isinstance(config, Architecture) else ""
        tail = f"; the nearest architecture is {near}" if near else ""
        raise UserError(f"{file} does not fit the network it describes; keys {'; '.join(told)}{tail}")


def _unwrapped(checkpoint: Mapping[str, object], network: str) -> Mapping[str, object]:
    """Go down to what holds the weights: the wanted network, an average, what is named like a network, the only one."""
    passed = set[int]()
    while True:
        inner = {key: value for key, value in checkpoint.items() if isinstance(value, Mapping)}
        averages = [key for key in inner if AVERAGE.search(str(key)) and _holds_weights(inner[key])]
        plain = [key for key in NESTED if key in inner]
        chosen = [network] if network in inner else [key for key in averages if key not in NETWORKS] + plain
        if not chosen and not any(isinstance(value, Tensor) for value in checkpoint.values()):  # under another name
            chosen = [key for key in inner if key not in NETWORKS and any(map(_is_tensor, inner[key].values()))]
            chosen = chosen if len(chosen) == 1 else []
        if not chosen:
            break
        raw = [*plain, *(key for key in inner if key not in averages and any(map(_is_tensor, inner[key].values())))]
        if raw and chosen[0] in averages:
            info(f"of {raw[0]} and {chosen[0]}, its average, {chosen[0]} is taken")
        passed.add(id(checkpoint))
        checkpoint = inner[chosen[0]]
        if id(checkpoint) in passed:
            raise UserError("the checkpoint holds itself; expected weights by name, a state dict")
    other = [key for key in NETWORKS if isinstance(checkpoint.get(key), Mapping)]
    if other:
        raise UserError(f"the checkpoint holds no {network}, only a {other[0]}; ask for network='{other[0]}'")
    return checkpoint


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)


def _holds_weights(value: object, depth: int = DEEPEST) -> bool:
    if isinstance(value, Mapping) and depth:
        return any(_holds_weights(inner, depth - 1) for inner in value.values())
    return isinstance(value, Tensor) and value.ndim > 0


def _renamed(key: str, value: Tensor) -> State:
    if key.endswith(".qkv.bias_mask"):
        return {}
    key = re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", key)
    if key == "storage_tokens":
        return {"register_tokens": value}
    if ".mlp.w12." in key and value.ndim:
        gate, content = value.chunk(2)
        return {key.replace("w12", "w1"): gate, key.replace("w12", "w2"): content}
    return {key: value}
