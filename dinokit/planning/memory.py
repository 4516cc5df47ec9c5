"""Bytes that a rank needs at the peak of a step, by what they hold; in float32 unless said otherwise.

The peak comes when the backward pass of the heads makes gradients while all activations of the backbone are alive.
Numbers that a block keeps of a token, for width d, inner width h (SwiGLU: two of it and their product):

    none        13 d + 2 h      inputs of norms, products, attention and LayerScale, and GELU's
    selective    7 d + h        results of products and of attention, and what enters the block
    full           d            what enters the block; one block at a time is computed again

Without rotation 2 d less, without LayerScale 2 d less. Stochastic depth keeps all that only of the samples that take
the branch. Under bf16 what products make is half as large. Held against the peak of real steps by benchmarks/plan.py.
"""

from torch import nn

from dinokit.models.vit import Config as VitConfig
from dinokit.planning.shape import Shape, largest_block
from dinokit.training.execution import Recompute

FLOAT = 4
BASE = 0.72e9  # bytes of a process before it holds anything: Python, torch, this package; measured with torch 2.14
_HEAD_NUMBERS = 4  # of the inner width that a head keeps of a token: two inputs and two results of GELU


def of_rank(
    shape: Shape,
    networks: dict[str, nn.Module],
    *,
    images: int,
    ranks: int,
    sharded: bool,
    recompute: Recompute,
    bf16: bool,
) -> dict[str, float]:
    """Return bytes by part.

    Args:
        images: of one forward pass on one rank.
        ranks: over which tensors are cut, if sharded.
    """
    weights = FLOAT * float(sum(p.numel() for network in networks.values() for p in network.parameters()))
    own = weights / (ranks if sharded else 1)
    parts = {
        "process": BASE,
        "weights": own,
        "EMA teacher": own,
        "gradients": own,
        "AdamW": 2 * own,
        "activations": images * activations(shape, recompute, bf16=bf16),
        "targets": FLOAT
        * images
        * sum((use.targets * use.config.prototypes for use in shape.heads.values()), start=0.0),
        "heads' tokens": images * sum((_of_head(shape, name) for name in shape.heads), start=0.0),
        "crops": float(FLOAT * images * shape.pixels),
    }
    if shape.anchor_tokens:
        anchor = FLOAT * float(sum(p.numel() for p in networks["backbone"].parameters()))
        parts["anchor"] = anchor / (ranks if sharded else 1)
    if sharded:
        heads = [network for name, network in networks.items() if name != "backbone"]
        whole = sum(p.numel() for network in heads for p in network.parameters())
        # two blocks while the next one travels; the heads, their gradients and their teachers' until the step's end
        parts["gathered"] = float(FLOAT) * (2 * largest_block(networks) + 3 * whole)
    return parts


def activations(shape: Shape, recompute: Recompute, *, bf16: bool) -> float:
    """Return the bytes that the student's backbone keeps of an image."""
    config = shape.backbone
    kept = {each: _of_token(config, each) for each in ("none", "selective", "full")}
    share = 1.0 if recompute == "full" else shape.kept
    blocks = config.depth * kept[recompute] * share + (kept["none"] if recompute == "full" else 0)
    return shape.tokens * (blocks * FLOAT * (0.6 if bf16 and recompute != "full" else 1.0) + 4 * config.dim * FLOAT)


def _of_token(config: VitConfig, recompute: str) -> float:
    dim, inner = config.dim, config.ffn_hidden * (1.5 if config.ffn == "swiglu" else 1)
    if recompute == "full":
        return float(dim)
    if recompute == "selective":
        return 7.0 * dim + inner * (4 / 3 if config.ffn == "swiglu" else 1)
    spared = 2 * (config.position != "rope") + 2 * (config.layer_scale is None)
    return float((13 - spared) * dim + 2 * inner)


def _of_head(shape: Shape, name: str) -> float:
    use = shape.heads[name]
    return FLOAT * use.student * (_HEAD_NUMBERS * use.config.hidden + 4 * use.config.bottleneck)
