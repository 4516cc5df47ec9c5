"""Weights and JSON files of Hugging Face transformers: ViTModel (DINO), Dinov2Model, Dinov2WithRegistersModel,
DINOv3ViTModel, DINOv3ConvNextModel and ResNetModel (nobody published DINO's ResNet-50 in that).

The names are those of the files on the hub, which every version of transformers reads and writes. Weights of task
models carry a prefix (`dinov2.`), which is found and taken off. config.json says what names cannot: heads, epsilon,
RoPE. Where the definitions differ from the official ones, ours stay official; each is measured in
tests/checkpoints/layouts/test_huggingface.py:

- Dinov2Model and ViTModel resize the table of positions to the size, not by the official factor (see models/vit.py);
- DINOv3ViTModel computes exact RoPE periods, official files store rounded ones: our `rope_periods` in config.json;
- the 1e-12 of ViTConfig is a default that the conversion of DINO left in place: DINO was trained with 1e-6.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dinokit.checkpoints.layouts import names
from dinokit.checkpoints.layouts.names import CONFIG, PREPROCESSOR, Exported, Family, State, Table
from dinokit.core.messages import UserError
from dinokit.models.architecture import Architecture, Network, outline, swiglu_hidden

# a tensor that every model has, behind the prefix of a task model; transformers says `model.` in memory, not in files
ROOT = re.compile(
    r"(?P<prefix>.*?)(model\.)?"
    r"(embeddings\.cls_token|stages\.0\.downsample_layers\.0\.weight|embedder\.embedder\.convolution\.weight)"
)
KEY_BIAS = "layer.0.attention.k_proj.bias"
MASK = "embeddings.mask_token"
REGISTERS = "embeddings.register_tokens"
EMBEDDED = {"cls_token": "embeddings.cls_token", "register_tokens": REGISTERS, "mask_token": MASK}
LEARNED = {
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj.*": "embeddings.patch_embeddings.projection.*",
}
BLOCK = "encoder.layer.#"
HEADS = ("query", "key", "value")
BOTTLENECK = {
    **{f"conv{number + 1}": f"layer.{number}.convolution" for number in range(3)},
    **{f"bn{number + 1}": f"layer.{number}.normalization" for number in range(3)},
    "downsample.0": "shortcut.convolution",
    "downsample.1": "shortcut.normalization",
}

TABLES: dict[Family, Table] = {
    "dino": EMBEDDED
    | LEARNED
    | {
        "blocks.#.norm1.*": f"{BLOCK}.layernorm_before.*",
        "blocks.#.attn.qkv.*": " + ".join(f"{BLOCK}.attention.attention.{name}.*" for name in HEADS),
        "blocks.#.attn.proj.*": f"{BLOCK}.attention.output.dense.*",
        "blocks.#.norm2.*": f"{BLOCK}.layernorm_after.*",
        "blocks.#.mlp.fc1.*": f"{BLOCK}.intermediate.dense.*",
        "blocks.#.mlp.fc2.*": f"{BLOCK}.output.dense.*",
        "norm.*": "layernorm.*",
    },
    "dinov2": EMBEDDED
    | LEARNED
    | {
        "blocks.#.norm1.*": f"{BLOCK}.norm1.*",
        "blocks.#.attn.qkv.*": " + ".join(f"{BLOCK}.attention.attention.{name}.*" for name in HEADS),
        "blocks.#.attn.proj.*": f"{BLOCK}.attention.output.dense.*",
        "blocks.#.ls1.gamma": f"{BLOCK}.layer_scale1.lambda1",
        "blocks.#.norm2.*": f"{BLOCK}.norm2.*",
        "blocks.#.mlp.fc1.*": f"{BLOCK}.mlp.fc1.*",
        "blocks.#.mlp.fc2.*": f"{BLOCK}.mlp.fc2.*",
        "blocks.#.mlp.w1.* + blocks.#.mlp.w2.*": f"{BLOCK}.mlp.weights_in.*",
        "blocks.#.mlp.w3.*": f"{BLOCK}.mlp.weights_out.*",
        "blocks.#.ls2.gamma": f"{BLOCK}.layer_scale2.lambda1",
        "norm.*": "layernorm.*",
    },
    "dinov3": EMBEDDED
    | {
        "patch_embed.proj.*": "embeddings.patch_embeddings.*",
        "blocks.#.norm1.*": "layer.#.norm1.*",
        "blocks.#.attn.qkv.weight": " + ".join(f"layer.#.attention.{name}_proj.weight" for name in "qkv"),
        "blocks.#.attn.proj.*": "layer.#.attention.o_proj.*",
        "blocks.#.ls1.gamma": "layer.#.layer_scale1.lambda1",
        "blocks.#.norm2.*": "layer.#.norm2.*",
        "blocks.#.ls2.gamma": "layer.#.layer_scale2.lambda1",
        "norm.*": "norm.*",
    },
    "convnext": {
        "downsample_layers.#.#.*": "stages.#.downsample_layers.#.*",
        "stages.#.#.dwconv.*": "stages.#.layers.#.depthwise_conv.*",
        "stages.#.#.norm.*": "stages.#.layers.#.layer_norm.*",
        "stages.#.#.pwconv#.*": "stages.#.layers.#.pointwise_conv#.*",
        "stages.#.#.gamma": "stages.#.layers.#.gamma",
        "norm.*": "layer_norm.*",
    },
    "resnet": {"conv1.*": "embedder.embedder.convolution.*", "bn1.*": "embedder.embedder.normalization.*"}
    | {
        f"layer{stage + 1}.#.{ours}.*": f"encoder.stages.{stage}.layers.#.{theirs}.*"
        for stage in range(4)
        for ours, theirs in BOTTLENECK.items()
    },
}
DINOV3_BIAS = {
    "qkv": " + ".join(f"layer.#.attention.{name}_proj.bias" for name in "qkv"),
    "qv": "layer.#.attention.q_proj.bias + + layer.#.attention.v_proj.bias",
}
DINOV3_FFN = {
    "mlp": {"blocks.#.mlp.fc1.*": "layer.#.mlp.up_proj.*", "blocks.#.mlp.fc2.*": "layer.#.mlp.down_proj.*"},
    "swiglu": {
        "blocks.#.mlp.w1.*": "layer.#.mlp.gate_proj.*",
        "blocks.#.mlp.w2.*": "layer.#.mlp.up_proj.*",
        "blocks.#.mlp.w3.*": "layer.#.mlp.down_proj.*",
    },
}
MODELS: dict[str, tuple[Family, str]] = {  # by model_type; with the class of transformers
    "vit": ("dino", "ViTModel"),
    "dinov2": ("dinov2", "Dinov2Model"),
    "dinov2_with_registers": ("dinov2", "Dinov2WithRegistersModel"),
    "dinov3_vit": ("dinov3", "DINOv3ViTModel"),
    "dinov3_convnext": ("convnext", "DINOv3ConvNextModel"),
    "resnet": ("resnet", "ResNetModel"),
}
LAYER_SCALE = "layer_scale_init_value"
SHRINKS = ("downsample_in_first_stage", "downsample_in_bottleneck")  # other ways to place the strides of a ResNet
VIT_EPS = 1e-12
BILINEAR, BICUBIC = 2, 3  # Pillow's numbers
SIGNS: dict[str, Family] = {
    "layer.0.norm1.weight": "dinov3",
    "encoder.layer.0.norm1.weight": "dinov2",
    "encoder.layer.0.layernorm_before.weight": "dino",
    "stages.0.downsample_layers.0.weight": "convnext",
    "embedder.embedder.convolution.weight": "resnet",
}


def matches(state: Mapping[str, Tensor]) -> bool:
    """Say whether these are weights of transformers; the state is that of a whole file."""
    return any(ROOT.fullmatch(key) for key in state)


def recognise(
    state: Mapping[str, Tensor], about: Mapping[str, Any], *, file: str, heads: int | None = None
) -> tuple[Architecture, State, list[str]]:
    """Return the architecture, the weights under our names, and the keys that belong to a head and were left out.

    Args:
        state: of a whole file.
        about: content of config.json; what it does not say is as published.
        file: for the messages.
        heads: of attention, where config.json does not say it.
    Raises:
        UserError: if config.json contradicts the weights or asks for what we do not compute, or listing, under their
            names, the keys that are missing, unexpected or misshapen.
    """
    theirs, left = _stripped(state)
    kind = next((kind for key, kind in SIGNS.items() if key in theirs), None)
    if kind is None:
        raise UserError(f"no block of a model of transformers is in the weights; expected one of {', '.join(SIGNS)}")
    named = about.get("model_type")
    types = [name for name, (family, _) in MODELS.items() if family == kind]
    if named is not None and named not in types:
        raise UserError(
            f"{CONFIG} says model_type '{named}', the weights are those of {' or '.join(types)}; load it as hf/FOLDER, "
            "or correct it"
        )
    if kind == "dino" and about.get("layer_norm_eps") == VIT_EPS:
        about = {name: value for name, value in about.items() if name != "layer_norm_eps"}
    config: Architecture
    if kind in ("convnext", "resnet"):
        ours = names.to_ours(theirs, TABLES[kind])
        config = names.convnet(ours)
        scale = names.positive(about, LAYER_SCALE)
        if scale and config.kind == "convnext":
            config = replace(config, layer_scale=scale)
    else:
        if kind == "dino" and MASK in theirs:  # of masked image modelling, which DINO does not do
            left.append(MASK)
            del theirs[MASK]
        config, ours = _transformer(kind, theirs, about, heads)
    names.agree(about, {name: value for name, value in _fields(config).items() if value is not None})
    names.check_shapes(_weights(config, outline(config)), theirs, config=config, file=file)
    return config, ours, left


def export(backbone: Network) -> Exported:
    """Rename a model's weights and write its config.json and preprocessor_config.json.

    What only training uses and transformers has no place for is left out.

    Raises:
        UserError: if config.json cannot describe the model. Not every such case is found: who calls this reads the
            result back and compares.
    """
    config, state = backbone.config, backbone.state_dict()
    kind, side = config.family, backbone.pixels.size or names.side(config)
    about = _fields(config)
    if about.get("mlp_ratio", 0) is None:
        raise UserError(
            f"hf cannot express ffn_hidden {getattr(config, 'ffn_hidden', '')} of a model of width {config.dim}: "
            "Dinov2Config takes a whole mlp_ratio"
        )
    grid = (getattr(config, "position_grid", None) or 14) * config.patch_size
    about |= {"architectures": [MODELS[str(about["model_type"])][1]], "dtype": "float32"}
    about["image_size"] = grid if config.kind == "vit" else side
    if kind == "dinov2" and config.kind == "vit" and not config.registers:
        about["use_mask_token"] = config.mask_token
    if config.kind == "convnext":
        about[LAYER_SCALE] = config.layer_scale
    own = {names.ROUNDED: names.rounding(config, state), names.LICENCE: backbone.licence}  # passed over by others
    about |= {name: value for name, value in own.items() if value is not None}
    newest = kind in ("dinov3", "convnext")
    preprocessor = {
        "image_processor_type": "DINOv3ViTImageProcessor" if newest else "ViTImageProcessor",
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": list(backbone.pixels.mean),
        "image_std": list(backbone.pixels.std),
        "rescale_factor": 1 / 255,
        "resample": BILINEAR if newest else BICUBIC,
        "size": {"height": side, "width": side},
    }
    return Exported(_weights(config, state), {CONFIG: about, PREPROCESSOR: preprocessor})


def _fields(config: Architecture) -> dict[str, object]:
    """Return what config.json says of a network: what is written, and what a file that is read must agree with."""
    about: dict[str, object] = {"num_channels": config.channels, "hidden_act": "gelu"}
    if config.kind == "convnext":
        about |= {"hidden_sizes": list(config.dims), "depths": list(config.depths), "layer_norm_eps": config.norm_eps}
        return about | {"model_type": "dinov3_convnext"}
    if config.kind == "resnet":
        about |= {"model_type": "resnet", "embedding_size": config.width, "depths": list(config.depths)}
        about |= {"hidden_sizes": [config.dim // shrunk for shrunk in (8, 4, 2, 1)], "hidden_act": "relu"}
        return about | {"layer_type": "bottleneck"} | dict.fromkeys(SHRINKS, False)
    swiglu, biased = config.ffn == "swiglu", config.qkv_bias != "none"
    about |= {
        "hidden_size": config.dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "patch_size": config.patch_size,
        "layer_norm_eps": config.norm_eps,
    }
    if config.family == "dino":
        return about | {"model_type": "vit", "intermediate_size": config.ffn_hidden, "qkv_bias": biased}
    if config.family == "dinov3":
        return about | {
            "model_type": "dinov3_vit",
            "hidden_act": "silu" if swiglu else "gelu",
            "intermediate_size": config.ffn_hidden,
            "num_register_tokens": config.registers,
            "use_gated_mlp": swiglu,
            "mlp_bias": True,
            "proj_bias": True,
            "query_bias": biased,
            "key_bias": config.qkv_bias == "qkv",
            "value_bias": biased,
            "rope_theta": config.rope.base,
            "pos_embed_shift": config.rope.shift,
            "pos_embed_jitter": config.rope.jitter,
            "pos_embed_rescale": config.rope.rescale,
        }
    about |= {"num_register_tokens": config.registers} if config.registers else {}
    widths = {
        ratio: swiglu_hidden(config.dim, ratio=float(ratio)) if swiglu else config.dim * ratio for ratio in range(1, 65)
    }
    return about | {
        "model_type": "dinov2_with_registers" if config.registers else "dinov2",
        "mlp_ratio": next((ratio for ratio, hidden in widths.items() if hidden == config.ffn_hidden), None),
        "qkv_bias": biased,
        "use_swiglu_ffn": swiglu,
    }


def _transformer(
    kind: Family, theirs: State, about: Mapping[str, Any], heads: int | None
) -> tuple[Architecture, State]:
    """Return the architecture, and the weights with what transformers does not store."""
    ffn = "swiglu" if "layer.0.mlp.gate_proj.weight" in theirs else "mlp"
    ours = names.to_ours(theirs, _table(kind, ffn=ffn, bias="qkv" if KEY_BIAS in theirs else "qv"))
    if "mask_token" in ours:
        ours["mask_token"] = ours["mask_token"].reshape(1, -1)  # DINOv3's has one axis more
    if "register_tokens" in ours and not ours["register_tokens"].numel():
        del ours["register_tokens"]
    config = names.transformer(ours, heads=names.heads_of(about, heads), rotary=kind == "dinov3")
    eps = names.positive(about, "layer_norm_eps")
    if eps is not None:
        config = replace(config, norm_eps=eps)
    if kind == "dinov3" and about:
        shift, jitter, rescale = (names.positive(about, f"pos_embed_{name}") for name in ("shift", "jitter", "rescale"))
        base = names.positive(about, "rope_theta") or 100.0
        config = replace(config, rope=replace(config.rope, base=base, shift=shift, jitter=jitter, rescale=rescale))
    if kind == "dinov3" and KEY_BIAS in theirs:
        config = replace(config, qkv_bias="qkv")
    return config, ours | names.periods(config, about.get(names.ROUNDED))


def _weights(config: Architecture, state: Mapping[str, Tensor]) -> State:
    """Rename our weights and add what transformers always has."""
    kind = config.family
    if config.kind != "vit":
        return names.to_theirs(state, TABLES[kind])
    found = names.to_theirs(state, _table(kind, ffn=config.ffn, bias=config.qkv_bias))
    like = state["cls_token"]
    if kind == "dino":
        found.pop(MASK, None)
    if kind == "dinov3" or (kind == "dinov2" and config.registers):
        shape = (1, 1, config.dim) if kind == "dinov3" else (1, config.dim)
        found[MASK] = found.get(MASK, torch.zeros_like(like)).reshape(shape)
    if kind == "dinov3":
        found.setdefault(REGISTERS, like[:, :0])
    if kind == "dinov3" and config.layer_scale is None:
        ones = torch.ones_like(like).flatten()
        found |= {f"layer.{block}.layer_scale{n}.lambda1": ones for block in range(config.depth) for n in (1, 2)}
    return found


def _table(kind: Family, *, ffn: str, bias: str) -> Table:
    if kind != "dinov3":
        return TABLES[kind]
    biases = {"blocks.#.attn.qkv.bias": DINOV3_BIAS[bias]} if bias in DINOV3_BIAS else {}
    return {**TABLES[kind], **biases, **DINOV3_FFN[ffn]}


def _stripped(state: Mapping[str, Tensor]) -> tuple[State, list[str]]:
    """Take the prefix of a task model off; return the backbone and the keys of everything else."""
    prefix = next(match["prefix"] for key in state if (match := ROOT.fullmatch(key)))
    backbone, left = {}, []
    for key, value in state.items():
        name = key.removeprefix(prefix)
        if not key.startswith(prefix) or name.startswith(("pooler.", "classifier.")):
            left.append(key)
            continue
        backbone[re.sub(r"^model\.(?=(layer|stages)\.)", "", name)] = value
    return backbone, left
