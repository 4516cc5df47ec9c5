"""Our weights under the names of the official repositories; `official.py` reads them back.

Files are as released: a flat state dict. DINOv3's key bias mask is written as it is meant, ones for queries and values,
not as released, all zero. ConvNeXts hold their last norm twice.
"""

from torch import Tensor

from dinokit.checkpoints.layouts import keymap, official
from dinokit.checkpoints.layouts.keymap import Exported, Family, Table
from dinokit.models import vit
from dinokit.models.architecture import Network

PACKED: Table = {"blocks.#.mlp.w1.* + blocks.#.mlp.w2.*": "blocks.#.mlp.w12.*"}
TABLES: dict[Family, Table] = {
    "dino": PACKED,
    "dinov2": PACKED,
    "dinov3": {"register_tokens": "storage_tokens"},
    "convnext": {},
    "resnet": {},
}


def export(backbone: Network) -> Exported:
    """Rename a model's weights; a name that no table holds stays as it is."""
    config, state = backbone.config, dict(backbone.state_dict())
    kind = keymap.family(config)
    if kind == "dino":
        state.pop("mask_token", None)  # DINO masks nothing
    found = keymap.unnamed(state, TABLES[kind]) | keymap.to_theirs(state, TABLES[kind])
    if kind == "convnext":
        found |= {copy: state[original] for copy, original in official.COPIES.items()}
    if isinstance(config, vit.Config) and config.qkv_bias == "qv" and kind == "dinov3":
        found |= _bias_masks(config, like=state["cls_token"])
    return Exported(found, {})


def _bias_masks(config: vit.Config, *, like: Tensor) -> dict[str, Tensor]:
    mask = like.new_ones(3, config.dim)
    mask[1] = 0
    return {f"blocks.{block}.attn.qkv.bias_mask": mask.flatten() for block in range(config.depth)}
