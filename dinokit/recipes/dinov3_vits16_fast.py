"""`dinov3-vits16` with small crops first."""

from dinokit.recipes.dinov3_vits16 import dinov3_vits16
from dinokit.recipes.words import *


def dinov3_vits16_fast() -> TrainConfig:
    """Pretrain a ViT-S/16 with crops of half the side for three quarters of the steps, then the stages of DINOv3.

    Source: FastDINOv2 (arXiv:2507.03779), as recipes/words.py has it, of `dinov3-vits16`.
    Command: dinokit pretrain dinov3-vits16-fast --data imagenet/train --out runs/dinov3-vits16-fast
    Hardware: batch 2048 wants several GPUs; `--data.accumulate 16` saves memory (docs/design.md).
    Expected time: that of `dinokit plan dinov3-vits16-fast`; published for DINOv2's ViT-B: 1.6 times as fast.
    Expected metric: published for that: a linear probe near the baseline's on ImageNet-1k, as robust on ImageNet-C.
    """
    base = dinov3_vits16()
    return replace(base, experiment=replace(curriculum(base.experiment), recipe="dinov3-vits16-fast"))
