"""Official weights of DINO, DINOv2 and DINOv3 -> our names; `released.py` writes them back.

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
"""

import re
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from dinokit.checkpoints.layouts import infer
from dinokit.checkpoints.layouts.infer import listed
from dinokit.core.errors import UserError
from dinokit.images.normalisation import Pixels
from dinokit.models import convnext, head, resnet, variants
from dinokit.models.architecture import Architecture

WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
NESTED = ("model", "state_dict", "module")
PARTS = ("backbone", "head", "dino_head", "ibot_head", "linear_head")
OF_A_HEAD = ("mlp", "last_layer")  # timm's ConvNeXts have a `head` of another kind, with their norm in it
NETWORKS = ("teacher", "student")
IGNORED = re.compile(r"\.qkv\.bias_mask$")
COPIES = {"norms.3.weight": "norm.weight", "norms.3.bias": "norm.bias"}

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
        named = path[0] in PARTS and len(path) > 1 and (path[0] != "head" or path[1] in OF_A_HEAD)
        owner = path.pop(0) if named else "backbone"
        found.setdefault(owner, {}).update(_renamed(".".join(path), value))
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
    state = {key: value for key, value in state.items() if not _is_copy(state, key)}
    return infer.backbone(state, heads=heads), state


def pixels(architecture: Architecture) -> Pixels:
    """Return what images the published weights want: ImageNet's statistics, 224 px, or 256 px for DINOv3.

    DINOv3 trained on satellite images wants others, which its file does not tell.
    """
    match architecture:
        case convnext.Config():
            return Pixels(size=256)
        case resnet.Config():
            return Pixels(size=224)
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
    state = part(checkpoint, name, network=network)
    return infer.projection(state), state


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
    passed = set[int]()
    while inner := next((v for key in (network, *NESTED) if isinstance(v := checkpoint.get(key), Mapping)), None):
        passed.add(id(checkpoint))
        if id(inner) in passed:
            raise UserError("the checkpoint holds itself; expected weights by name, a state dict")
        checkpoint = inner
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


def _is_copy(state: Mapping[str, Tensor], key: str) -> bool:
    original = state.get(COPIES.get(key, ""))
    return original is not None and original.dtype == state[key].dtype and torch.equal(state[key], original)
