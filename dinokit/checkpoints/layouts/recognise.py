"""Whose weights are these? Official, Hugging Face transformers' or timm's, by their keys and the files beside them.

Official files of DINO, DINOv2 and DINOv3 carry no configuration, so everything is read off names and shapes. Whatever
is found must then match the model built from it: a key is renamed, left out here, or an error. Names are ours but for:

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
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dinokit.checkpoints.layouts import huggingface, names, timm
from dinokit.checkpoints.layouts.names import CONFIG, LICENCE, PREPROCESSOR, Exported, Family, State, Table
from dinokit.core.messages import UserError, info, listed
from dinokit.images.intensity import Pixels
from dinokit.models.architecture import Architecture, Network
from dinokit.peers import hf

# torchvision's and timm's classifiers; those of transformers stand beside the backbone and not in it
CLASSIFIER = re.compile(r"(fc|head|head\.fc)\.(weight|bias)")
Files = Mapping[str, Mapping[str, Any]]  # content by file name
WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
NESTED = ("model", "state_dict", "module")
AVERAGE = re.compile(
    r"(^|_)(ema|swa|teacher|avg|averaged?|shadow)(_|$)|^(target|momentum)_"
)  # names of what follows by average
DEEPEST = 4  # mappings within each other
PARTS = ("backbone", "head", "dino_head", "ibot_head", "linear_head")
OF_A_HEAD = ("mlp", "last_layer")  # timm's ConvNeXts have a `head` of another kind, with their norm in it
TEACHER = "teacher"
NETWORKS = (TEACHER, "student")
COPIES = {"norms.3.weight": "norm.weight", "norms.3.bias": "norm.bias"}
PACKED: Table = {"blocks.#.mlp.w1.* + blocks.#.mlp.w2.*": "blocks.#.mlp.w12.*"}
TABLES: dict[Family, Table] = {
    "dino": PACKED,
    "dinov2": PACKED,
    "dinov3": {"register_tokens": "storage_tokens"},
    "convnext": {},
    "resnet": {},
}


class Recognised(NamedTuple):
    """What a foreign file holds."""

    architecture: Architecture
    weights: State  # under our names
    pixels: Pixels  # of the images that they want
    assumed: list[str]  # of all this, what neither the file nor those beside it say


def licence(about: Mapping[str, Any]) -> str | None:
    """Return what config.json says of the licence of the weights: where timm says it, or at the top."""
    places = (about, about.get("pretrained_cfg"))
    found = (place.get(LICENCE) for place in places if isinstance(place, Mapping))
    return next((name for name in found if isinstance(name, str)), None)


def recognise(checkpoint: Mapping[str, object], files: Files, *, file: str, heads: int | None = None) -> Recognised:
    """Return the architecture, the weights under our names, and what images they want.

    Keys of a classification head are left out, in one line that names them.

    Args:
        checkpoint: what the weights file holds; wrappers and prefixes are taken off, see `parts`.
        files: content of the JSON files beside it, by their names.
        file: for the messages; where its name says of whom the weights are, their images are known.
        heads: of attention, where nothing else says it.
    Raises:
        UserError: if nobody's weights are in it, or some of them do not fit; the message lists the keys.
    """
    about, preprocessor = files.get(CONFIG, {}), files.get(PREPROCESSOR, {})
    try:
        found = parts(checkpoint)
        if "backbone" not in found:
            raise UserError(f"the checkpoint holds no backbone, only: {', '.join(found) or 'nothing'}")
        state = found["backbone"]
        left = [key for key in state if CLASSIFIER.fullmatch(key)]
        state = {key: value for key, value in state.items() if key not in left}
        if huggingface.matches(state):
            config, ours, others = huggingface.recognise(state, about, file=file, heads=heads)
            left += others
        elif timm.matches(state, about):
            config, ours = timm.recognise(state, about, file=file, heads=heads)
        else:
            ours = {key: value for key, value in state.items() if not _is_copy(key, state)}
            config = names.backbone(ours, heads=names.heads_of(about, heads))
    except UserError as error:
        raise UserError(f"{error}{_way_out(checkpoint, about, str(error))}") from error
    if left:
        info(f"left out of {file}: {listed(sorted(left))}")
    usual, name = pixels_of(config), "/".join(Path(file).parts[-2:]).lower()
    if "augreg" in name and config.kind == "vit" and config.position_grid:  # of timm, of which only it says
        usual = Pixels(hf.HALF.mean, hf.HALF.std, config.position_grid * config.patch_size)
    described = about.get("pretrained_cfg", about)
    pixels = hf.pixels(preprocessor, _pixels_of_timm(described, usual))
    told = heads or about.get("num_attention_heads") or "rope_embed.periods" in state or "architecture" in about
    assumed = [] if told or config.kind != "vit" else [f"{config.heads} heads of attention (heads=, --heads)"]
    if not ("image_mean" in preprocessor or "mean" in described or "augreg" in name or sum(pixels.mean) == 0):
        assumed.append(f"images of mean {pixels.mean} and std {pixels.std} (a {PREPROCESSOR} beside it says others)")
    return Recognised(config, ours, pixels, assumed)


def check_pooling(state: Mapping[str, Tensor], files: Files, *, file: str) -> None:
    """Refuse a head of timm that sees something else than CLS; what it sees is in config.json alone.

    Args:
        state: of a whole file, timm's or not.
        files: content of the JSON files beside it.
        file: for the message.
    """
    about = files.get(CONFIG, {})
    if timm.QKV in state and timm.matches(state, about) and about.get("global_pool") != "token":
        raise UserError(
            f"expected global_pool 'token' in the {CONFIG} beside {file}, got {about.get('global_pool')!r}; "
            "other heads of timm cannot be loaded"
        )


def parts(checkpoint: Mapping[str, object]) -> dict[str, State]:
    """Split a checkpoint into the backbone and its heads, as far as present: `PARTS`, under our names.

    Where it holds a network and its average, such as model and model_ema, the average is taken, and said.

    Args:
        checkpoint: a flat state dict, or a training checkpoint that nests it under teacher, student, model, ...
    Raises:
        UserError: if only the student is there, or if an entry is no tensor with a name.
    """
    named: State = {}
    for key, value in _unwrapped(checkpoint).items():
        if key == "n_averaged":  # how many, in torch.optim.swa_utils.AveragedModel
            continue
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise UserError(f"expected a state dict, but '{key}' is a {type(value).__name__}, not a tensor")
        path = [name for name in key.split(".") if name not in WRAPPERS] or [key]
        if path[0] in NETWORKS and len(path) > 1 and path.pop(0) != TEACHER:
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


def official(backbone: Network) -> Exported:
    """Write the official layout: rename a model's weights; a name that no table holds stays as it is."""
    config, state = backbone.config, dict(backbone.state_dict())
    if config.family == "dino":
        state.pop("mask_token", None)  # DINO masks nothing
    found = names.unnamed(state, TABLES[config.family]) | names.to_theirs(state, TABLES[config.family])
    if config.family == "convnext":
        found |= {copy: state[original] for copy, original in COPIES.items()}
    if config.kind == "vit" and config.family == "dinov3" and config.qkv_bias == "qv":
        mask = state["cls_token"].new_ones(3, config.dim)
        mask[1] = 0
        found |= {f"blocks.{block}.attn.qkv.bias_mask": mask.flatten() for block in range(config.depth)}
    return Exported(found, {})


EXPORTS: dict[str, Callable[[Network], Exported]] = {
    "official": official,
    "hf": huggingface.export,
    "timm": timm.export,
}


def _unwrapped(checkpoint: Mapping[str, object]) -> Mapping[str, object]:
    """Go down to what holds the weights: the teacher, an average, what is named like a network, the only one."""
    passed = set[int]()
    while True:
        inner = {key: value for key, value in checkpoint.items() if isinstance(value, Mapping)}
        averages = [key for key in inner if AVERAGE.search(str(key)) and _holds_weights(inner[key])]
        plain = [key for key in NESTED if key in inner]
        chosen = [TEACHER] if TEACHER in inner else [key for key in averages if key not in NETWORKS] + plain
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
    if isinstance(checkpoint.get("student"), Mapping):
        raise UserError(
            "the checkpoint holds no teacher, only a student; save what is in 'student' as a file of its own"
        )
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


def _is_copy(key: str, state: State) -> bool:
    """Tell whether a tensor is the second copy of another, as it should be."""
    copy, original = state[key], state.get(COPIES.get(key, ""))
    return original is not None and copy.dtype == original.dtype and torch.equal(copy, original)


def pixels_of(config: Architecture) -> Pixels:
    """Return what images published weights want: ImageNet's statistics, 224 px, or 256 px for DINOv3.

    DINOv3 trained on satellite images wants others, which its file does not tell. TIPS, which is DINOv2's network with
    one register, wants plain values of 448 px.
    """
    if config.kind == "vit" and config.family == "dinov2" and config.registers == 1:
        return Pixels((0.0,) * 3, (1.0,) * 3, size=448)
    return Pixels(size=names.side(config))


def _pixels_of_timm(data: Any, usual: Pixels) -> Pixels:
    """Return what the `pretrained_cfg` of config.json says of images, or else what is usual."""
    try:
        mean, std = data.get("mean", usual.mean), data.get("std", usual.std)
        size = data["input_size"][-1] if "input_size" in data else usual.size
        return Pixels(tuple(map(float, mean)), tuple(map(float, std)), None if size is None else int(size))
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        raise UserError(f"{CONFIG} is damaged: {error}") from error


def _way_out(checkpoint: Mapping[str, object], about: Mapping[str, Any], said: str) -> str:
    """Say where weights that are none of the family can run."""
    if "birder_version" in checkpoint or {"state", "task", "net_name"} <= checkpoint.keys():
        return "; it is a file of Birder, whose networks have names of their own and cannot be loaded"
    if "architecture" in about and "timm/" not in said:
        return "; others of timm are loaded as timm/local-dir:FOLDER"
    if "model_type" in about and "hf/" not in said:
        return "; others of transformers are loaded as hf/FOLDER"
    return ""
