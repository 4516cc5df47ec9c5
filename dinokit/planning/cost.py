"""What a step of an experiment costs, read off its settings: operations, bytes in memory, bytes sent.

Operations, two per multiplication and addition of every matrix product and of attention:

    block, T tokens     2 T (4 d^2 + 2 d h) + 4 T^2 d      d width, h inner width (SwiGLU: 3 d h); attention last
    head, t tokens      2 t (d m + (layers - 2) m^2 + m b + b K)

A student's backward pass costs twice its forward pass: gradients of inputs and of weights. The logits of a student are
computed once more for it (objectives/prototypes.py), so prototypes cost four products instead of three. What comes
before the first block that learns (`optim.trained`) has a forward pass alone, whole, and keeps nothing; where a mask
token learns before it, gradients of inputs as well, of what has patches hidden. Low-rank changes have the gradients of
whole matrices and moments of their factors.

Memory has its peak when the backward pass of the heads makes gradients while all activations of the backbone are alive.
Numbers that a block keeps of a token, in float32 unless said otherwise (SwiGLU: h twice, and their product):

    none        13 d + 2 h      inputs of norms, products, attention and LayerScale, and GELU's
    selective    7 d + h        results of products and of attention, and what enters the block
    full           d            what enters the block; one block at a time is computed again

Without rotation 2 d less, without LayerScale 2 d less. Stochastic depth keeps all that only of the samples that take
the branch. Under bf16 what products make is half as large. Held against the peak of real steps by benchmarks/plan.py.

Messages travel by ring algorithms: (n - 1) / n of what is gathered or reduced, twice for both.

    data parallel   gradients reduced and spread once a step
    sharded         in every micro-batch: the student's blocks gathered for the forward and the backward pass, the
                    teacher's and the anchor's once, everything's gradients reduced
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from dinokit.core.messages import UserError
from dinokit.models.architecture import build
from dinokit.models.head import Config as HeadConfig
from dinokit.models.head import Head
from dinokit.models.vit import Config as VitConfig
from dinokit.objectives.base import HeadUse, Seen
from dinokit.training.config import Experiment
from dinokit.training.execution import MESSAGE, Recompute, grouped
from dinokit.training.trained import ALL, HEADS, choose, parsed
from dinokit.views.multicrop import Config as ViewsConfig

FLOAT, CHANGES = 4, "low-rank changes"  # bytes; among the networks the name of what moves the backbone's matrices
BASE = 0.72e9  # bytes of a process before it holds anything: Python, torch, this package; measured with torch 2.14


@dataclass(frozen=True)
class Shape:
    """The sizes of a step, per image."""

    backbone: VitConfig
    heads: dict[str, HeadUse]
    global_tokens: int  # of one crop, with CLS and registers
    local_tokens: int
    globals: int  # crops per image
    locals: int
    anchor_tokens: int  # of one crop that the anchor sees; 0: there is no anchor, or the teacher is it
    others: dict[str, float]  # operations per image of an objective beside its head
    pixels: int  # numbers in all crops of an image
    still: int  # first blocks that do not learn
    through: bool  # whether the gradient of a mask token, of the global crops, comes through these
    embeds: bool  # whether the map from pixels to patches learns

    @property
    def kept(self) -> float:
        """Share of the samples that run through a residual branch of the student, over its blocks."""
        rate = self.backbone.drop_path
        return 1 - (rate if self.backbone.drop_path_shape == "uniform" else rate / 2)

    @property
    def learning(self) -> int:
        """Blocks of which a graph is kept; of local crops, which hide nothing, perhaps fewer."""
        return self.backbone.depth - (0 if self.through else self.still)

    @property
    def tokens(self) -> int:
        """Tokens of an image that the student's blocks see."""
        return self.globals * self.global_tokens + self.locals * self.local_tokens


def shapes(experiment: Experiment) -> list[tuple[float, Shape]]:
    """Read the sizes off an experiment, with the share of the steps that have them.

    Raises:
        UserError: if the backbone is no transformer.
    """
    if not isinstance(experiment.backbone, VitConfig):
        raise UserError(f"plan knows transformers only, not a {experiment.backbone.kind}; time a few steps")
    views = experiment.data.views
    shares = [size.share for size in views.sizes] or [1.0]
    return [
        (share / sum(shares), _shape(experiment, variant))
        for share, variant in zip(shares, views.variants(), strict=True)
    ]


def _shape(experiment: Experiment, views: ViewsConfig) -> Shape:
    backbone: Any = experiment.backbone
    prefix = 1 + backbone.registers
    patches = (views.global_size // backbone.patch_size) ** 2
    hidden = 0.0
    if experiment.data.masks is not None:
        low, high = experiment.data.masks.ratio
        hidden = 2 * patches * experiment.data.masks.probability * (low + high) / 2
    seen = Seen(crops=2, locals=views.local_count, hidden=hidden, patches=patches, dim=backbone.dim)
    objectives, (how, count, masked) = experiment.objectives, parsed(experiment.optim.trained)
    uses = {name: config.head_use(seen, siblings=objectives) for name, config in objectives.items()}
    side, small, large = views.global_size, views.local_size, views.anchor_size
    return Shape(
        backbone=backbone,
        heads={name: use for name, use in uses.items() if use is not None},
        global_tokens=prefix + patches,
        local_tokens=prefix + (small // backbone.patch_size) ** 2,
        globals=2,
        locals=views.local_count,
        anchor_tokens=prefix + (large // backbone.patch_size) ** 2 if large else 0,
        others={name: config.operations(seen) for name, config in objectives.items()},
        pixels=backbone.channels * (2 * side**2 + views.local_count * small**2 + 2 * large**2),
        still=backbone.depth - count if how == "last" else backbone.depth * (how == HEADS),
        through=how == "last" and masked and hidden > 0,
        embeds=how == ALL,
    )


def networks(experiment: Experiment) -> dict[str, nn.Module]:
    """Build backbone and heads on the meta device: shapes without numbers; what learns asks for gradients."""
    with torch.device("meta"):
        backbone = build(experiment.backbone)
        built: dict[str, nn.Module] = {"backbone": backbone}
        for name, use in shapes(experiment)[0][1].heads.items():
            if use.owned:
                built[f"{name}_head"] = Head(experiment.backbone.dim, use.config, seed=0)
    changes = choose(backbone, experiment.optim.trained, seed=0)
    return built if changes is None else built | {CHANGES: changes}


def operations(shape: Shape, recompute: Recompute) -> dict[str, float]:
    """Return the operations that an image costs, by part."""
    backbone = shape.backbone
    prefix = 1 + backbone.registers
    crops = ((shape.globals, shape.global_tokens), (shape.locals, shape.local_tokens))
    embed = sum(count * embedding(backbone, tokens - prefix) for count, tokens in crops)
    each = sum(count * block(backbone, tokens) for count, tokens in crops)
    passed = shape.globals * (block(backbone, shape.global_tokens) + attention(backbone, shape.global_tokens))
    whole = shape.globals * forward(backbone, shape.global_tokens)
    passes = 4 if recompute == "full" else 3
    blocks = shape.still + passes * shape.kept * (backbone.depth - shape.still)
    work = {"teacher": float(whole), "student": (1 + shape.embeds) * embed + blocks * each}
    if shape.through:
        work["student"] += shape.still * (passed + (passes - 3) * shape.globals * block(backbone, shape.global_tokens))
    if shape.anchor_tokens:
        work["anchor"] = float(shape.globals * forward(backbone, shape.anchor_tokens))
    work |= {name: count for name, count in shape.others.items() if count}
    for name, use in shape.heads.items():
        mlp, scores = projection(backbone.dim, use.config), 2 * use.config.bottleneck * use.config.prototypes
        inputs = 0 if shape.learning else 2 * backbone.dim * use.config.hidden  # which get no gradient
        work[f"{name} head"] = use.teacher * (mlp + scores) + use.student * (3 * mlp + 4 * scores - inputs)
    return work


def forward(config: VitConfig, tokens: int) -> int:
    """Count the forward pass of a backbone on one crop."""
    return embedding(config, tokens - 1 - config.registers) + config.depth * block(config, tokens)


def block(config: VitConfig, tokens: int) -> int:
    """Count the forward pass of a block on one sequence."""
    ffn = (3 if config.ffn == "swiglu" else 2) * config.dim * config.ffn_hidden
    return 2 * tokens * (4 * config.dim**2 + ffn) + attention(config, tokens)


def attention(config: VitConfig, tokens: int) -> int:
    """Count what a block makes of two inputs, queries and keys, weights and values."""
    return 4 * tokens**2 * config.dim


def embedding(config: VitConfig, patches: int) -> int:
    """Count the map from pixels to patches."""
    area = config.patch_size**2
    if config.stem is None:
        return 2 * patches * area * config.channels * config.dim
    points = patches * area // 4  # after the stem, which halves both sides with windows of 4 x 4
    return 2 * points * 16 * config.channels * config.stem + 2 * patches * area // 4 * config.stem * config.dim


def projection(dim: int, config: HeadConfig) -> int:
    """Count the MLP of a head for one token."""
    widths = [dim, *[config.hidden] * (config.layers - 1), config.bottleneck]
    return 2 * sum(a * b for a, b in pairwise(widths))


def memory(
    shape: Shape,
    networks: dict[str, nn.Module],
    *,
    images: int,
    ranks: int,
    sharded: bool,
    recompute: Recompute,
    bf16: bool,
    shared: bool = False,
) -> dict[str, float]:
    """Return bytes by part.

    Args:
        images: of one forward pass on one rank.
        ranks: over which tensors are cut, if sharded.
        shared: whether the ranks are those of one machine's CPU, which send each other messages, and average gradients,
            in memory that they share.
    """
    weights = FLOAT * float(sum(p.numel() for network in networks.values() for p in network.parameters()))
    own = weights / (ranks if sharded else 1)
    wanted = FLOAT * float(sum(learnt(network) for network in networks.values())) / (ranks if sharded else 1)
    moved = FLOAT * float(sum(moving(networks).values())) / (ranks if sharded else 1)
    uses = shape.heads.values()
    targets = float(sum(use.targets * use.config.prototypes for use in uses))
    # of its inner width a head keeps four numbers of a token: two inputs and two results of GELU
    tokens = float(sum(use.student * (4 * use.config.hidden + 4 * use.config.bottleneck) for use in uses))
    parts = {
        "process": BASE,
        "weights": own,
        "EMA teacher": own,
        "gradients": wanted,
        "AdamW": 2 * moved,
        "activations": images * activations(shape, recompute, bf16=bf16),
        "targets": FLOAT * images * targets,
        "heads' tokens": FLOAT * images * tokens,
        "crops": float(FLOAT * images * shape.pixels),
    }
    if shared and ranks > 1 and not sharded:
        parts["averaging"] = moved  # beside the gradients that the next backward pass makes
    if shape.anchor_tokens:
        anchor = FLOAT * float(sum(p.numel() for p in networks["backbone"].parameters()))
        parts["anchor"] = anchor / (ranks if sharded else 1)
    if sharded:
        heads = [network for name, network in networks.items() if name != "backbone"]
        sizes = [sum(p.numel() for p in head.parameters()) for head in heads]
        groups = grouped(networks["backbone"], MESSAGE if shared else 0)
        largest = max(sum(p.numel() for block in group for p in block.parameters()) for group in groups)
        # what travels together twice, while the next travels; heads, their gradients and their teachers' until the
        # step's end
        parts["gathered"] = float(FLOAT) * (2 * largest + 3 * sum(sizes))
        if shared and ranks > 1:
            parts["messages"] = float(FLOAT) * 2 * max([largest, *sizes])  # the halves of core/regions
    return parts


def learnt(network: nn.Module) -> int:
    """Count the numbers of a network that get a gradient."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def moving(networks: dict[str, nn.Module]) -> dict[str, int]:
    """Count what the optimiser moves, by network: of low-rank changes their factors, which the backbone follows."""
    counts = {name: learnt(network) for name, network in networks.items()}
    return counts | {"backbone": 0} if CHANGES in networks else counts


def activations(shape: Shape, recompute: Recompute, *, bf16: bool) -> float:
    """Return the bytes that the student's backbone keeps of an image."""
    config = shape.backbone
    kept = {each: _of_token(config, each) for each in ("none", "selective", "full")}
    share = 1.0 if recompute == "full" else shape.kept
    again = kept["none"] if recompute == "full" and shape.learning else 0
    blocks = shape.learning * kept[recompute] * share + again
    return shape.tokens * (blocks * FLOAT * (0.6 if bf16 and recompute != "full" else 1.0) + 4 * config.dim * FLOAT)


def _of_token(config: VitConfig, recompute: str) -> float:
    dim, inner = config.dim, config.ffn_hidden * (1.5 if config.ffn == "swiglu" else 1)
    if recompute == "full":
        return float(dim)
    if recompute == "selective":
        return 7.0 * dim + inner * (4 / 3 if config.ffn == "swiglu" else 1)
    spared = 2 * (config.position != "rope") + 2 * (config.layer_scale is None)
    return float((13 - spared) * dim + 2 * inner)


def traffic(
    shape: Shape, networks: dict[str, nn.Module], *, ranks: int, accumulate: int, sharded: bool, bf16: bool
) -> dict[str, float]:
    """Return the bytes that each rank sends, by reason."""
    if ranks == 1:
        return {}
    share = (ranks - 1) / ranks
    counts = {name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()}
    moved = moving(networks)
    heads = FLOAT * float(sum(counts.values()) - counts["backbone"])
    numbers = sum(use.reductions * use.config.prototypes for use in shape.heads.values())
    sent = {"targets": 2 * share * accumulate * FLOAT * numbers}
    if not sharded:
        return {"gradients": 2 * share * FLOAT * sum(moved.values())} | sent
    travelling = (2 if bf16 else FLOAT) * counts["backbone"]
    return {
        "weights": share * accumulate * ((4 if shape.anchor_tokens else 3) * travelling + 2 * heads),
        "gradients": share * accumulate * (FLOAT * moved["backbone"] + heads),
    } | sent
