"""What a step of an experiment consists of: networks, tokens, kept samples; what every prediction stands on."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dinokit.core.messages import UserError
from dinokit.models.architecture import build
from dinokit.models.head import Head
from dinokit.models.vit import Config as VitConfig
from dinokit.objectives.base import HeadUse, Seen
from dinokit.training.config import Experiment
from dinokit.views.multicrop import Config as ViewsConfig


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

    @property
    def kept(self) -> float:
        """Share of the samples that run through a residual branch of the student, over its blocks."""
        rate = self.backbone.drop_path
        return 1 - (rate if self.backbone.drop_path_shape == "uniform" else rate / 2)

    @property
    def tokens(self) -> int:
        """Tokens of an image that the student's blocks see."""
        return self.globals * self.global_tokens + self.locals * self.local_tokens


def shapes(experiment: Experiment) -> list[tuple[float, Shape]]:
    """Read the sizes off an experiment, with the share of the steps that have them.

    Raises:
        UserError: if the backbone is no transformer.
    """
    if not experiment.backbone.whole_patches:
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
    objectives = experiment.objectives
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
    )


def networks(experiment: Experiment) -> dict[str, nn.Module]:
    """Build backbone and heads on the meta device: shapes without numbers."""
    with torch.device("meta"):
        built: dict[str, nn.Module] = {"backbone": build(experiment.backbone)}
        for name, use in shapes(experiment)[0][1].heads.items():
            if use.owned:
                built[f"{name}_head"] = Head(experiment.backbone.dim, use.config, seed=0)
    return built


def largest_block(networks: dict[str, nn.Module]) -> int:
    """Return the number of parameters of the largest block of the backbone."""
    blocks: Any = networks["backbone"].blocks
    return max(int(sum(p.numel() for p in block.parameters())) for block in blocks)
