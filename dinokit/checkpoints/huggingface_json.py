"""config.json and preprocessor_config.json of transformers' vision transformers, read and written."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dinokit.checkpoints import keymap, official
from dinokit.core.errors import UserError
from dinokit.core.pixels import Pixels
from dinokit.models import vit
from dinokit.models.ffn import swiglu_hidden
from dinokit.models.rope import Config as RopeConfig
from dinokit.peers import huggingface as peers

CONFIG, PREPROCESSOR = peers.CONFIG, peers.PREPROCESSOR
BILINEAR, BICUBIC = 2, 3  # Pillow's numbers


def heads(about: Mapping[str, Any]) -> int | None:
    """Return the number of heads that config.json names."""
    value = _number(about, "num_attention_heads")
    if value is not None and value % 1:
        raise UserError(f"{CONFIG}: num_attention_heads must be a whole number, got {value}")
    return None if value is None else int(value)


def described(config: vit.Config, about: Mapping[str, Any]) -> vit.Config:
    """Add to what the weights say what only config.json can.

    Args:
        config: read off the weights.
        about: content of config.json; may be empty.
    Raises:
        UserError: if it asks for a network that is not of the family.
    """
    gated = about.get("use_gated_mlp", False)
    for name, wanted in (("hidden_act", "silu" if gated else "gelu"), ("mlp_bias", True), ("proj_bias", True)):
        if about.get(name, wanted) != wanted:
            raise UserError(f"{CONFIG}: {name} {about[name]!r} is not supported; models of the family have {wanted!r}")
    eps = _number(about, "layer_norm_eps")
    if eps is not None and not (config.init == "dino" and eps == 1e-12):  # ViTConfig's default, see huggingface.py
        config = replace(config, norm_eps=eps)
    if config.position != "rope" or not about:
        return config
    shift, jitter, rescale = (_number(about, f"pos_embed_{name}") for name in ("shift", "jitter", "rescale"))
    base = _number(about, "rope_theta") or 100.0
    return replace(config, rope=RopeConfig(base=base, shift=shift, jitter=jitter, rescale=rescale))


def pixels(config: vit.Config, preprocessor: Mapping[str, Any]) -> Pixels:
    """Return what preprocessor_config.json says of images; without one, what the published weights want."""
    return peers.pixels(preprocessor, official.pixels(config))


def written(backbone: vit.VisionTransformer, rounded: str | None) -> dict[str, object]:
    """Return the content of both files, by file name.

    Args:
        rounded: how the RoPE periods are rounded, see `keymap.rounding`.
    Raises:
        UserError: if the inner width of the feed-forward network is none that Dinov2Config can name.
    """
    config = backbone.config
    own = {"dino": _dino, "dinov2": _dinov2, "dinov3": _dinov3}[keymap.family(config)](config)
    about = {
        "hidden_size": config.dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "num_channels": config.channels,
        "patch_size": config.patch_size,
        "image_size": (config.position_grid or 14) * config.patch_size,
        "layer_norm_eps": config.norm_eps,
        "hidden_act": "gelu",
        "dtype": "float32",
    }
    periods = {} if rounded is None else {keymap.ROUNDED: rounded}
    return {CONFIG: about | own | periods, PREPROCESSOR: _preprocessor(backbone)}


def _preprocessor(backbone: vit.VisionTransformer) -> dict[str, object]:
    rotary = backbone.config.position == "rope"
    side = backbone.pixels.size or official.pixels(backbone.config).size
    return {
        "image_processor_type": "DINOv3ViTImageProcessor" if rotary else "ViTImageProcessor",
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": list(backbone.pixels.mean),
        "image_std": list(backbone.pixels.std),
        "rescale_factor": 1 / 255,
        "resample": BILINEAR if rotary else BICUBIC,
        "size": {"height": side, "width": side},
    }


def _dino(config: vit.Config) -> dict[str, object]:
    return {
        "architectures": ["ViTModel"],
        "model_type": "vit",
        "intermediate_size": config.ffn_hidden,
        "qkv_bias": config.qkv_bias != "none",
    }


def _dinov2(config: vit.Config) -> dict[str, object]:
    own: dict[str, object] = {
        "architectures": ["Dinov2WithRegistersModel" if config.registers else "Dinov2Model"],
        "model_type": "dinov2_with_registers" if config.registers else "dinov2",
        "mlp_ratio": _whole_ratio(config),
        "qkv_bias": config.qkv_bias != "none",
        "use_swiglu_ffn": config.ffn == "swiglu",
    }
    return own | (
        {"num_register_tokens": config.registers} if config.registers else {"use_mask_token": config.mask_token}
    )


def _dinov3(config: vit.Config) -> dict[str, object]:
    swiglu, bias = config.ffn == "swiglu", config.qkv_bias
    return {
        "architectures": ["DINOv3ViTModel"],
        "model_type": "dinov3_vit",
        "intermediate_size": config.ffn_hidden,
        "num_register_tokens": config.registers,
        "use_gated_mlp": swiglu,
        "hidden_act": "silu" if swiglu else "gelu",
        "query_bias": bias != "none",
        "key_bias": bias == "qkv",
        "value_bias": bias != "none",
        "rope_theta": config.rope.base,
        "pos_embed_shift": config.rope.shift,
        "pos_embed_jitter": config.rope.jitter,
        "pos_embed_rescale": config.rope.rescale,
    }


def _whole_ratio(config: vit.Config) -> int:
    for ratio in range(1, 65):
        hidden = swiglu_hidden(config.dim, ratio=float(ratio)) if config.ffn == "swiglu" else config.dim * ratio
        if hidden == config.ffn_hidden:
            return ratio
    raise UserError(
        f"hf cannot express ffn_hidden {config.ffn_hidden} of a model of width {config.dim}: "
        "Dinov2Config takes a whole mlp_ratio"
    )


def _number(about: Mapping[str, Any], name: str) -> float | None:
    value = about.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise UserError(f"{CONFIG}: {name} must be a positive number, got {value!r}")
    return float(value)
