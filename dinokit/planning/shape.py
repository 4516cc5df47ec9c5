"""What a step of an experiment consists of: networks, tokens, kept samples; what every prediction stands on."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dinokit.models import head
from dinokit.models.head import Head
from dinokit.models.vit import Config as VitConfig
from dinokit.models.vit import VisionTransformer
from dinokit.objectives import assign, dino, ibot
from dinokit.training.config import Experiment
from dinokit.views.multicrop import Config as ViewsConfig


@dataclass(frozen=True)
class HeadUse:
    """A head and how many tokens of an image it sees, averaged over the masks."""

    config: head.Config
    owned: bool  # False: it borrows the weights of the one before
    student: float  # tokens per image
    teacher: float
    targets: float  # rows of the matrix of targets per image
    reductions: int  # vectors of one number per prototype that ranks sum in a micro-batch


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
    gram: bool  # whether the patches of the global crops are compared
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
    """Read the sizes off an experiment, with the share of the steps that have them."""
    views = experiment.data.views
    shares = [size.share for size in views.sizes] or [1.0]
    return [
        (share / sum(shares), _shape(experiment, variant))
        for share, variant in zip(shares, views.variants(), strict=True)
    ]


def _shape(experiment: Experiment, views: ViewsConfig) -> Shape:
    backbone = experiment.backbone
    prefix = 1 + backbone.registers
    patches = (views.global_size // backbone.patch_size) ** 2
    hidden = 0.0
    if experiment.data.masks is not None:
        low, high = experiment.data.masks.ratio
        hidden = 2 * patches * experiment.data.masks.probability * (low + high) / 2
    heads: dict[str, HeadUse] = {}
    for name, config in experiment.objectives.items():
        if isinstance(config, dino.Config):
            heads[name] = HeadUse(
                config.head,
                True,
                2.0 + views.local_count,
                2.0,
                3.0 if config.ignore_diagonal else 1.0,
                reductions(config),
            )
        elif isinstance(config, ibot.Config):
            lent = next((use.config for use in heads.values()), None)
            chosen = config.head or lent
            assert chosen is not None
            heads[name] = HeadUse(chosen, config.head is not None, hidden, hidden, hidden, reductions(config))
    side, small, large = views.global_size, views.local_size, views.anchor_size
    return Shape(
        backbone=backbone,
        heads=heads,
        global_tokens=prefix + patches,
        local_tokens=prefix + (small // backbone.patch_size) ** 2,
        globals=2,
        locals=views.local_count,
        anchor_tokens=prefix + (large // backbone.patch_size) ** 2 if large else 0,
        gram="gram" in experiment.objectives,
        pixels=backbone.channels * (2 * side**2 + views.local_count * small**2 + 2 * large**2),
    )


def reductions(config: assign.Config) -> int:
    """Count the sums over ranks that make targets: one per iteration, or that of a mean."""
    return config.sinkhorn_iterations if config.targets == "sinkhorn" else 1


def networks(experiment: Experiment) -> dict[str, nn.Module]:
    """Build backbone and heads on the meta device: shapes without numbers."""
    with torch.device("meta"):
        built: dict[str, nn.Module] = {"backbone": VisionTransformer(experiment.backbone)}
        for name, use in shapes(experiment)[0][1].heads.items():
            if use.owned:
                built[f"{name}_head"] = Head(experiment.backbone.dim, use.config, seed=0)
    return built


def largest_block(networks: dict[str, nn.Module]) -> int:
    """Return the number of parameters of the largest block of the backbone."""
    blocks: Any = networks["backbone"].blocks
    return max(int(sum(p.numel() for p in block.parameters())) for block in blocks)
