"""Our weights under the names of the official repositories; `official.py` reads them back.

Files are as released: a flat state dict. DINOv3's key bias mask is written as it is meant, ones for queries and values,
not as released, all zero.
"""

from torch import Tensor

from dinokit.checkpoints import keymap
from dinokit.checkpoints.keymap import Exported, Table
from dinokit.models import vit

PACKED: Table = {"blocks.#.mlp.w1.* + blocks.#.mlp.w2.*": "blocks.#.mlp.w12.*"}


def export(backbone: vit.VisionTransformer) -> Exported:
    """Rename a model's weights."""
    config, state = backbone.config, dict(backbone.state_dict())
    kind = keymap.family(config)
    if kind == "dino":
        state.pop("mask_token", None)  # DINO masks nothing
    if kind == "dinov3":
        return Exported(_dinov3(config, state), {})
    table = keymap.rules(PACKED, range(config.depth))
    packed = keymap.to_theirs(state, table)
    gone = {name for rule in table for name in rule.ours}
    return Exported({key: value for key, value in state.items() if key not in gone} | packed, {})


def _dinov3(config: vit.Config, state: dict[str, Tensor]) -> dict[str, Tensor]:
    found = {("storage_tokens" if key == "register_tokens" else key): value for key, value in state.items()}
    if config.qkv_bias == "qv":
        ones = state["cls_token"].new_ones(config.dim)
        mask = ones.new_zeros(3, config.dim)
        mask[0], mask[2] = ones, ones
        found |= {f"blocks.{block}.attn.qkv.bias_mask": mask.flatten() for block in range(config.depth)}
    return found
