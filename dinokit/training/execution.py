"""How the blocks of a network are executed: what they keep for the backward pass, and whether they are compiled.

What a block's backward pass needs of its forward pass is kept or computed again (arXiv:1604.06174):

    none        all is kept
    selective   results of products and of attention are kept; norms, rotation, GELU, sums are computed again
    full        only what enters the block is kept: a third more time, the least memory

That changes no number: the random subsets of stochastic depth are drawn again from the same generator state. Compiling
changes rounding. On two CPU cores it saved 4 to 14 % of a ViT-S/16's step after 25 to 55 s of compiling (docs/log.md),
so it is off unless asked for.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from dinokit.models.architecture import Network

Recompute = Literal["none", "selective", "full"]

_aten = torch.ops.aten
_KEPT = {
    _aten.mm.default,
    _aten.addmm.default,
    _aten.bmm.default,
    _aten.convolution.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
}


def execute(networks: Sequence[Network], how: Recompute, *, compiled: bool) -> None:
    """Make the blocks of the first network forget what their backward pass computes again; compile those of all."""
    set_recompute(networks[0], how)
    for block in (block for network in networks if compiled for block in network.residuals()):
        block.compile()  # a new size of images compiles again, at its first step


def set_recompute(network: Network, how: Recompute) -> None:
    """Make the blocks of a network forget what their backward pass will compute again."""
    if how == "none":
        return
    options: dict[str, Any] = {"use_reentrant": False}
    if how == "selective":
        options["context_fn"] = partial(create_selective_checkpoint_contexts, _policy)
    for block in network.residuals():
        block.forward = partial(checkpoint, block.forward, **options)


def _policy(_context: Any, operation: Any, *_arguments: Any, **_options: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in _KEPT else CheckpointPolicy.PREFER_RECOMPUTE
