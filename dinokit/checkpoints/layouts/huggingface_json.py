"""config.json and preprocessor_config.json of transformers, read and written."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dinokit.checkpoints.layouts import keymap, official
from dinokit.checkpoints.layouts.json_files import CONFIG, LICENCE, PREPROCESSOR, agree, positive
from dinokit.core.errors import UserError
from dinokit.images.normalisation import Pixels
from dinokit.models import convnext, resnet, vit
from dinokit.models.architecture import Architecture, Network
from dinokit.models.block import swiglu_hidden
from dinokit.models.convnet import STAGES
from dinokit.models.position import RopeConfig
from dinokit.peers import huggingface as peers

LAYER_SCALE = "layer_scale_init_value"
BILINEAR, BICUBIC = 2, 3  # Pillow's numbers


def heads(about: Mapping[str, Any]) -> int | None:
    """Return the number of heads that config.json names."""
    value = positive(about, "num_attention_heads")
    if value is not None and value % 1:
        raise UserError(f"{CONFIG}: num_attention_heads must be a whole number, got {value}")
    return None if value is None else int(value)


def described(config: vit.Config, about: Mapping[str, Any]) -> vit.Config:
    """Add to what the weights say what only config.json can.

    Args:
        config: read off the weights.
        about: content of config.json; may be empty.
    Raises:
        UserError: if it contradicts the weights, or asks for a network that is not of the family.
    """
    agree(about, _sizes(config))
    gated = about.get("use_gated_mlp", False)
    for name, wanted in (("hidden_act", "silu" if gated else "gelu"), ("mlp_bias", True), ("proj_bias", True)):
        if about.get(name, wanted) != wanted:
            raise UserError(f"{CONFIG}: {name} {about[name]!r} is not supported; models of the family have {wanted!r}")
    eps = positive(about, "layer_norm_eps")
    if eps is not None and not (config.init == "dino" and eps == 1e-12):  # ViTConfig's default, see huggingface.py
        config = replace(config, norm_eps=eps)
    if config.position != "rope" or not about:
        return config
    shift, jitter, rescale = (positive(about, f"pos_embed_{name}") for name in ("shift", "jitter", "rescale"))
    base = positive(about, "rope_theta") or 100.0
    return replace(config, rope=RopeConfig(base=base, shift=shift, jitter=jitter, rescale=rescale))


def checked(config: convnext.Config | resnet.Config, about: Mapping[str, Any]) -> convnext.Config | resnet.Config:
    """Hold config.json against a convolutional network read off the weights; add initial values, which only it knows.

    Raises:
        UserError: if the two contradict each other.
    """
    agree(about, _convnext(config) if isinstance(config, convnext.Config) else _resnet(config))
    scale = positive(about, LAYER_SCALE)
    return replace(config, layer_scale=scale) if scale and isinstance(config, convnext.Config) else config


def pixels(config: Architecture, preprocessor: Mapping[str, Any]) -> Pixels:
    """Return what preprocessor_config.json says of images; without one, what the published weights want."""
    return peers.pixels(preprocessor, official.pixels(config))


def written(backbone: Network, rounded: str | None) -> dict[str, object]:
    """Return the content of both files, by file name.

    Args:
        rounded: how the RoPE periods are rounded, see `keymap.rounding`.
    Raises:
        UserError: if the inner width of the feed-forward network is none that Dinov2Config can name.
    """
    match backbone.config:
        case vit.Config() as config:
            about = _transformer(config)
        case convnext.Config() as config:
            side = backbone.pixels.size or official.pixels(config).size
            about = {"architectures": ["DINOv3ConvNextModel"], "image_size": side, LAYER_SCALE: config.layer_scale}
            about |= _convnext(config)
        case resnet.Config() as config:
            about = {"architectures": ["ResNetModel"]} | _resnet(config)
    own = {keymap.ROUNDED: rounded, LICENCE: backbone.licence}  # which transformers passes over
    about |= {name: value for name, value in own.items() if value is not None}
    return {CONFIG: about | {"dtype": "float32"}, PREPROCESSOR: _preprocessor(backbone)}


def _transformer(config: vit.Config) -> dict[str, object]:
    own = {"dino": _dino, "dinov2": _dinov2, "dinov3": _dinov3}[keymap.family(config)](config)
    about: dict[str, object] = _sizes(config) | {
        "num_attention_heads": config.heads,
        "image_size": (config.position_grid or 14) * config.patch_size,
        "layer_norm_eps": config.norm_eps,
        "hidden_act": "gelu",
    }
    return about | own


def _sizes(config: vit.Config) -> dict[str, object]:
    return {
        "hidden_size": config.dim,
        "num_hidden_layers": config.depth,
        "num_channels": config.channels,
        "patch_size": config.patch_size,
    }


def _convnext(config: convnext.Config) -> dict[str, object]:
    return {
        "model_type": "dinov3_convnext",
        "num_channels": config.channels,
        "hidden_sizes": list(config.dims),
        "depths": list(config.depths),
        "hidden_act": "gelu",
        "layer_norm_eps": convnext.EPS,
    }


def _resnet(config: resnet.Config) -> dict[str, object]:
    return {
        "model_type": "resnet",
        "num_channels": config.channels,
        "embedding_size": config.width,
        "hidden_sizes": [resnet.EXPANSION * config.width * 2**stage for stage in range(STAGES)],
        "depths": list(config.depths),
        "layer_type": "bottleneck",
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": False,
    }


def _preprocessor(backbone: Network) -> dict[str, object]:
    newest = keymap.family(backbone.config) in ("dinov3", "convnext")
    side = backbone.pixels.size or official.pixels(backbone.config).size
    return {
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
