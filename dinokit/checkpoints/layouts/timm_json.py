"""The config.json of timm, by which timm.create_model("local-dir:FOLDER") builds a network, read and written."""

from collections.abc import Mapping
from typing import Any

from dinokit.checkpoints.layouts import keymap, official
from dinokit.checkpoints.layouts.json_files import CONFIG, LICENCE, agree
from dinokit.checkpoints.layouts.keymap import Family
from dinokit.core.errors import UserError, unknown_name
from dinokit.images.normalisation import Pixels
from dinokit.models import convnext, resnet, vit
from dinokit.models.architecture import Architecture, Network

# what model_args may hold without changing what we compute: sizes are read off the weights, the rest is for training
HARMLESS = {
    *("img_size", "patch_size", "in_chans", "num_classes", "global_pool", "embed_dim", "depth", "num_heads"),
    *("mlp_ratio", "qkv_bias", "init_values", "reg_tokens", "num_reg_tokens", "no_embed_class"),
    *("dynamic_img_size", "strict_img_size", "swiglu_mlp", "swiglu_align_to", "drop_rate", "drop_path_rate"),
    *("proj_drop_rate", "attn_drop_rate", "patch_drop_rate", "pos_drop_rate"),
}
HARMLESS_CONVNET = {
    *("in_chans", "num_classes", "global_pool", "dims", "depths", "layers", "ls_init_value", "head_init_scale"),
    *("drop_rate", "drop_path_rate", "drop_block_rate", "zero_init_last"),
}
VITS = {
    *(f"deit_{size}_patch16_224" for size in ("tiny", "small", "base")),
    *(f"vit_{size}_patch16_{side}" for size in ("tiny", "small", "base", "large") for side in (224, 384)),
    *(f"vit_{size}_patch32_{side}" for size in ("small", "base", "large") for side in (224, 384)),
    *("deit_base_patch16_384", "vit_small_patch8_224", "vit_base_patch8_224", "vit_large_patch14_224"),
}
DINOV2S = {f"vit_{size}_patch14{reg}_dinov2" for size in ("small", "base", "large", "giant") for reg in ("", "_reg4")}
DINOV3S = {
    *(f"vit_{size}_patch16_dinov3{bias}" for size in ("small", "small_plus", "base") for bias in ("", "_qkvb")),
    *(f"vit_{size}_patch16_dinov3{bias}" for size in ("large", "huge_plus") for bias in ("", "_qkvb")),
    *("vit_tiny_patch16_dinov3_qkvb", "vit_7b_patch16_dinov3"),
}
# timm has other networks with the same names and shapes: blurred (resnetblur50), of another epsilon (convnext_xxlarge),
# with 80 channels per head (vit_huge_patch14_224)
SAME_NETWORK: dict[Family, set[str]] = {
    "dino": VITS,
    "dinov2": VITS | DINOV2S,
    "dinov3": DINOV3S,
    "convnext": {f"convnext_{size}" for size in ("tiny", "small", "base", "large", "xlarge")},
    "resnet": {"resnet50", "resnet101", "resnet152", "tv_resnet50", "tv_resnet101", "tv_resnet152"},
}
STEM: dict[Family, tuple[str, str]] = {"convnext": ("stem.0", "head.fc"), "resnet": ("conv1", "fc")}


def heads(about: Mapping[str, Any]) -> int | None:
    """Return the number of heads that config.json names.

    Raises:
        UserError: if it asks for what we do not compute.
    """
    found = _model_args(about, HARMLESS).get("num_heads")
    if found is not None and (not isinstance(found, int) or found < 1):
        raise UserError(f"{CONFIG}: num_heads must be a positive whole number, got {found!r}")
    return found


def check(config: Architecture, about: Mapping[str, Any]) -> None:
    """Hold config.json against a network read off the weights.

    Raises:
        UserError: if it names another network or another size.
    """
    known = SAME_NETWORK[keymap.family(config)]
    name = about.get("architecture")
    if name is not None and name not in known:
        found = unknown_name(f"architecture in {CONFIG} for these weights", str(name), known)
        raise UserError(f"{found} Others are loaded as timm/local-dir:FOLDER")
    if isinstance(config, vit.Config):
        sizes = {"embed_dim": config.dim, "depth": config.depth, "patch_size": config.patch_size}
        agree(_model_args(about, HARMLESS), sizes | {"in_chans": config.channels})
    else:
        agree(_model_args(about, HARMLESS_CONVNET), _sizes(config))


def pixels(config: Architecture, about: Mapping[str, Any]) -> Pixels:
    """Return what config.json says of images, or what the published weights want without one."""
    usual = official.pixels(config)
    data = about.get("pretrained_cfg", about)
    try:
        mean, std = data.get("mean", usual.mean), data.get("std", usual.std)
        size = data["input_size"][-1] if "input_size" in data else usual.size
        return Pixels(tuple(map(float, mean)), tuple(map(float, std)), None if size is None else int(size))
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        raise UserError(f"{CONFIG} is damaged: {error}") from error


def written(backbone: Network, rounded: str | None) -> dict[str, object]:
    """Return the content of config.json, by its name.

    Its `architecture` is one of the generation and `model_args` holds every size: timm has no other names for networks
    that were not published.

    Args:
        rounded: how the RoPE periods are rounded, see `keymap.rounding`.
    Raises:
        UserError: if timm builds no such network.
    """
    config = backbone.config
    side = backbone.pixels.size or official.pixels(config).size
    first, classifier = STEM.get(keymap.family(config), ("patch_embed.proj", "head"))
    about: dict[str, object] = {
        "architecture": _architecture(config),
        "num_classes": 0,
        "num_features": config.dim,
        "model_args": _arguments(config) if isinstance(config, vit.Config) else _sizes(config),
        "pretrained_cfg": {
            "mean": list(backbone.pixels.mean),
            "std": list(backbone.pixels.std),
            "input_size": [config.channels, side, side],
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "num_classes": 0,
            "first_conv": first,
            "classifier": classifier,
            **({} if backbone.licence is None else {LICENCE: backbone.licence}),
        },
    }
    periods = {} if rounded is None else {keymap.ROUNDED: rounded}  # read by us; timm computes exact ones
    return {CONFIG: about | periods}


def _model_args(about: Mapping[str, Any], harmless: set[str]) -> Mapping[str, Any]:
    arguments = about.get("model_args", {})
    if not isinstance(arguments, Mapping):
        raise UserError(f"{CONFIG}: model_args must be a table, got {arguments!r}")
    for name in arguments:
        if name not in harmless:
            raise unknown_name(f"argument in model_args of {CONFIG}", name, harmless)
    return arguments


def _architecture(config: Architecture) -> str:
    match keymap.family(config):
        case "convnext":
            return "convnext_tiny"
        case "resnet":
            return "resnet50"
        case "dino":
            return "vit_small_patch16_224"
        case "dinov3":
            return "vit_small_patch16_dinov3"
    assert isinstance(config, vit.Config)
    size = "giant" if config.ffn == "swiglu" else "small"  # only the giant packs
    return f"vit_{size}_patch14{'_reg4' if config.registers else ''}_dinov2"


def _sizes(config: convnext.Config | resnet.Config) -> dict[str, object]:
    if isinstance(config, convnext.Config):
        return {"in_chans": config.channels, "dims": list(config.dims), "depths": list(config.depths)}
    if config.width != 64:
        raise UserError(f"timm cannot express this model: its ResNets begin with 64 channels, this one {config.width}")
    return {"in_chans": config.channels, "layers": list(config.depths)}


def _arguments(config: vit.Config) -> dict[str, object]:
    swiglu, rotary = config.ffn == "swiglu", config.position == "rope"
    inner = 2 * config.ffn_hidden if swiglu and not rotary else config.ffn_hidden
    found: dict[str, object] = {
        "img_size": (config.position_grid or 14) * config.patch_size,
        "patch_size": config.patch_size,
        "in_chans": config.channels,
        "embed_dim": config.dim,
        "depth": config.depth,
        "num_heads": config.heads,
        "mlp_ratio": (inner + 0.5) / config.dim,  # timm truncates: the half keeps rounding away
        "qkv_bias": config.qkv_bias != "none",
        "init_values": config.layer_scale,
        "dynamic_img_size": True,
        "global_pool": "token",
    }
    if rotary:
        found["num_reg_tokens"] = config.registers
    elif config.registers:
        found["reg_tokens"] = config.registers
    if rotary and swiglu:
        found |= {"swiglu_mlp": True, "swiglu_align_to": 1}
    return found
