"""Operations of a step: two per multiplication and addition of every matrix product and of attention.

    block, T tokens     2 T (4 d^2 + 2 d h) + 4 T^2 d      d width, h inner width (SwiGLU: 3 d h); attention last
    head, t tokens      2 t (d m + (layers - 2) m^2 + m b + b K)

A student's backward pass costs twice its forward pass: gradients of inputs and of weights. The logits of a student are
computed once more for it (objectives/prototypes.py), so prototypes cost four products instead of three.
"""

from itertools import pairwise

from dinokit.models.head import Config as HeadConfig
from dinokit.models.vit import Config as VitConfig
from dinokit.planning.shape import Shape
from dinokit.training.execution import Recompute


def of_step(shape: Shape, recompute: Recompute) -> dict[str, float]:
    """Return the operations that an image costs, by part."""
    backbone = shape.backbone
    prefix = 1 + backbone.registers
    crops = ((shape.globals, shape.global_tokens), (shape.locals, shape.local_tokens))
    embed = sum(count * embedding(backbone, tokens - prefix) for count, tokens in crops)
    blocks = sum(count * backbone.depth * block(backbone, tokens) for count, tokens in crops)
    teacher = shape.globals * (
        embedding(backbone, shape.global_tokens - prefix) + backbone.depth * block(backbone, shape.global_tokens)
    )
    passes = 4 if recompute == "full" else 3
    work = {"teacher": float(teacher), "student": 2 * embed + passes * shape.kept * blocks}
    if shape.anchor_tokens:
        one = embedding(backbone, shape.anchor_tokens - prefix) + backbone.depth * block(backbone, shape.anchor_tokens)
        work["anchor"] = float(shape.globals * one)
    work |= {name: operations for name, operations in shape.others.items() if operations}
    for name, use in shape.heads.items():
        mlp, scores = projection(backbone.dim, use.config), 2 * use.config.bottleneck * use.config.prototypes
        work[f"{name} head"] = use.teacher * (mlp + scores) + use.student * (3 * mlp + 4 * scores)
    return work


def block(config: VitConfig, tokens: int) -> int:
    """Count the forward pass of a block on one sequence."""
    ffn = (3 if config.ffn == "swiglu" else 2) * config.dim * config.ffn_hidden
    return 2 * tokens * (4 * config.dim**2 + ffn) + 4 * tokens**2 * config.dim


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
