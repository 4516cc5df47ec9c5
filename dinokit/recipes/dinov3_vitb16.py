"""DINOv3 at ImageNet-1k scale: ViT-B/16."""

from dinokit.recipes.dinov3_vitl16 import dinov3_vitl16
from dinokit.recipes.words import *


def dinov3_vitb16() -> TrainConfig:
    """Pretrain a ViT-B/16 with the published ViT-L/16 values and the released architecture (4 registers, no key bias).

    Source: DINOv3 (arXiv:2508.10104). Its released ViT-B is distilled from the 7B model; nobody published a recipe from
        scratch, so only the architecture differs from `dinov3_vitl16`.
    Command: dinokit pretrain dinov3-vitb16 --data imagenet/train --out runs/dinov3-vitb16
    Hardware: batch 2048 wants several GPUs; `--data.accumulate 16` saves memory (docs/design.md).
    Expected time, expected metric: not published.
    """
    large = dinov3_vitl16()
    backbone = replace(VARIANTS["dinov3_vitb16"], drop_path=0.3)
    return replace(large, experiment=replace(large.experiment, recipe="dinov3-vitb16", backbone=backbone))
