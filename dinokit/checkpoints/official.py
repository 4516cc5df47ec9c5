"""Official weights of DINO, DINOv2 and DINOv3 vision transformers -> our names, and the configuration they imply.

The files carry no configuration, so everything is read off names and shapes. Whatever is found must then match the
model built from it, key by key and shape by shape: a key is renamed, listed in `IGNORED`, or an error. What the three
releases differ in:

| official                      | ours                                                       |
|-------------------------------|------------------------------------------------------------|
| storage_tokens (DINOv3)       | register_tokens                                            |
| blocks.{chunk}.{i} (DINOv2)   | blocks.{i}                                                 |
| mlp.w12 (DINOv2 giant)        | mlp.w1 (gate: the first rows), mlp.w2 (value)              |
| attn.qkv.bias_mask (DINOv3)   | dropped: released files store zeros where ones are meant   |
| rope_embed.periods (DINOv3)   | the same, as stored: released ones are rounded to bfloat16 |
"""

import math
import re
from collections.abc import Mapping
from typing import Literal

from torch import Tensor, nn

from dinokit.core.errors import UserError
from dinokit.core.pixels import Pixels
from dinokit.models import head, variants, vit
from dinokit.models.architecture import Architecture
from dinokit.models.rope import Config as RopeConfig

WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
NESTED = ("model", "state_dict", "module")
PARTS = ("backbone", "head", "dino_head", "ibot_head", "linear_head")
NETWORKS = ("teacher", "student")
IGNORED = re.compile(r"\.qkv\.bias_mask$")
SHOWN = 8  # keys per error message

State = dict[str, Tensor]


def parts(checkpoint: Mapping[str, object], *, network: Literal["teacher", "student"] = "teacher") -> dict[str, State]:
    """Split a checkpoint into the backbone and its heads, as far as present: `PARTS`, under our names.

    Args:
        checkpoint: a flat state dict, or a training checkpoint that nests it under teacher, student, model, ...
        network: which of the two to take if both are there.
    Raises:
        UserError: if only the other network is there, or if an entry is no tensor with a name.
    """
    found: dict[str, State] = {}
    for key, value in _unwrapped(checkpoint, network).items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise UserError(f"expected a state dict, but '{key}' is a {type(value).__name__}, not a tensor")
        path = [name for name in key.split(".") if name not in WRAPPERS] or [key]
        if path[0] in NETWORKS and len(path) > 1 and path.pop(0) != network:
            continue
        part = path.pop(0) if path[0] in PARTS and len(path) > 1 else "backbone"
        found.setdefault(part, {}).update(_renamed(".".join(path), value))
    return found


def recognise(
    checkpoint: Mapping[str, object],
    *,
    network: Literal["teacher", "student"] = "teacher",
    heads: int | None = None,
) -> tuple[vit.Config, State]:
    """Return the architecture and the weights, under our names, of the backbone in a checkpoint.

    Args:
        checkpoint: as in `parts`.
        network: as in `parts`.
        heads: as in `infer`.
    Raises:
        UserError: if there is no backbone, or none of the three releases.
    """
    state = _part(checkpoint, "backbone", network)
    return infer(state, heads=heads), state


def pixels(architecture: vit.Config) -> Pixels:
    """Return what images the published weights want: ImageNet's statistics, 224 px, or 256 px for DINOv3.

    DINOv3 trained on satellite images wants others, which its file does not tell.
    """
    return Pixels(size=256 if architecture.init == "dinov3" else 224)


def recognise_head(
    checkpoint: Mapping[str, object],
    name: Literal["head", "dino_head", "ibot_head"],
    *,
    network: Literal["teacher", "student"] = "teacher",
) -> tuple[head.Config, State]:
    """Return the configuration and the weights of a projection head in a training checkpoint.

    Raises:
        UserError: if there is no such head.
    """
    state = _part(checkpoint, name, network)
    return infer_head(state), state


def infer(state: Mapping[str, Tensor], *, heads: int | None = None) -> vit.Config:
    """Read the configuration of a backbone off its names and shapes.

    Args:
        state: under our names, see `parts`.
        heads: of attention; only needed without RoPE if a head is not 64 wide as in all releases.
    Raises:
        UserError: if the state is not that of a vision transformer, or if `heads` is needed.
    """
    dim, channels, patch_size, _ = shape(state, "patch_embed.proj.weight", axes=4)
    swiglu = "blocks.0.mlp.w1.weight" in state
    scaled = "blocks.0.ls1.gamma" in state
    registers = shape(state, "register_tokens", axes=3)[1] if "register_tokens" in state else 0
    rotary = "rope_embed.periods" in state
    return vit.Config(
        patch_size=patch_size,
        channels=channels,
        dim=dim,
        depth=max(depth(state), 1),
        heads=_heads(state, dim, heads),
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


def depth(state: Mapping[str, Tensor], stack: str = "blocks") -> int:
    """Count the blocks of a backbone, or of one of its stages.

    Raises:
        UserError: if they are not numbered from 0 without gaps; a number alone would ask for any amount of memory.
    """
    found = {match[1] for key in state if (match := re.match(rf"{re.escape(stack)}\.(\d+)\.", key))}
    strange = sorted(found - {str(number) for number in range(len(found))})
    if strange:
        where = "" if stack == "blocks" else f" in {stack}"
        raise UserError(
            f"expected blocks 0 to {len(found) - 1}{where}, got number {strange[0]}; the file may be cut short"
        )
    return len(found)


def infer_head(state: Mapping[str, Tensor]) -> head.Config:
    """Read the configuration of a projection head off its names and shapes.

    Weight normalisation is reported as trainable: whether the lengths were fixed is not in the file.
    """
    normed = "last_layer.weight_v" in state
    prototypes, bottleneck = shape(state, "last_layer.weight_v" if normed else "last_layer.weight", axes=2)
    return head.Config(
        hidden=shape(state, "mlp.0.weight", axes=2)[0],
        bottleneck=bottleneck,
        prototypes=prototypes,
        layers=sum(re.fullmatch(r"mlp\.\d+\.weight", key) is not None for key in state),
        weight_norm="trainable" if normed else "none",
    )


def load_strictly(model: nn.Module, state: Mapping[str, Tensor], *, file: str) -> None:
    """Load weights that fit a model exactly.

    Args:
        model: changed in place, only if everything fits.
        state: under our names.
        file: where the weights are from, for the message.
    Raises:
        UserError: naming the keys that are missing, unexpected or of another shape.
    """
    check_fit(model, state, file=file)
    model.load_state_dict(dict(state))


def check_fit(model: nn.Module, state: Mapping[str, Tensor], *, file: str) -> None:
    """Refuse weights that do not fit a model exactly, as `load_strictly` does; the model may be on the meta device."""
    check_shapes(model.state_dict(), state, config=getattr(model, "config", None), file=file)


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
    told = [f"{len(keys)} {fault}: {listed(keys)}" for fault, keys in faults.items() if keys]
    if told:
        near = variants.nearest(config) if isinstance(config, Architecture) else ""
        tail = f"; the nearest architecture is {near}" if near else ""
        raise UserError(f"{file} does not fit the network it describes; keys {'; '.join(told)}{tail}")


def _unwrapped(checkpoint: Mapping[str, object], network: str) -> Mapping[str, object]:
    for key in (network, *NESTED):
        inner = checkpoint.get(key)
        if isinstance(inner, Mapping):
            return _unwrapped(inner, network)
    other = [key for key in NETWORKS if isinstance(checkpoint.get(key), Mapping)]
    if other:
        raise UserError(f"the checkpoint holds no {network}, only a {other[0]}; ask for network='{other[0]}'")
    return checkpoint


def _renamed(key: str, value: Tensor) -> State:
    if IGNORED.search(key):
        return {}
    key = re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", key)
    if key == "storage_tokens":
        return {"register_tokens": value}
    if ".mlp.w12." in key and value.ndim:
        gate, content = value.chunk(2)
        return {key.replace("w12", "w1"): gate, key.replace("w12", "w2"): content}
    return {key: value}


def _part(checkpoint: Mapping[str, object], name: str, network: Literal["teacher", "student"]) -> State:
    found = parts(checkpoint, network=network)
    if name not in found:
        raise UserError(f"the checkpoint holds no {name}, only: {', '.join(found) or 'nothing'}")
    return found[name]


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


def _heads(state: Mapping[str, Tensor], dim: int, heads: int | None) -> int:
    if "rope_embed.periods" in state:
        width = 4 * state["rope_embed.periods"].numel()  # one period per 4 channels of a head
    elif heads is not None:
        return heads
    else:
        width = 64
    if not width or dim % width:
        raise UserError(f"the width {dim} is not a multiple of {width}, the usual width of a head; pass heads=")
    return dim // width


def _table_side(state: Mapping[str, Tensor]) -> int:
    cells = shape(state, "pos_embed", axes=3)[1] - 1
    side = math.isqrt(cells)
    if side**2 != cells:
        raise UserError(f"pos_embed holds {cells} patch positions, which is not a square")
    return side


def listed(keys: list[str]) -> str:
    """Name some keys and say how many more there are."""
    rest = len(keys) - SHOWN
    return ", ".join(keys[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")
