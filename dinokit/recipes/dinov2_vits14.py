"""DINOv2 at ImageNet-22k scale: ViT-S/14."""

from dinokit.recipes.dinov2_vitb14 import dinov2_vitb14
from dinokit.recipes.words import *


def dinov2_vits14() -> TrainConfig:
    """Pretrain a ViT-S/14 with the values published for ViT-L/14.

    Source: DINOv2 (arXiv:2304.07193); only the architecture differs from `dinov2_vitb14`.
    Command: dinokit pretrain dinov2-vits14 --data images --out runs/dinov2-vits14
    Hardware: batch 3072 wants several GPUs; `--data.accumulate N` saves memory (docs/design.md).
    Expected time, expected metric: not published; the released ViT-S is distilled from ViT-g.
    """
    base = dinov2_vitb14()
    backbone = replace(VARIANTS["dinov2_vits14"], position_grid=16, layer_scale=1e-5, drop_path=0.4)
    return replace(base, experiment=replace(base.experiment, recipe="dinov2-vits14", backbone=backbone))
