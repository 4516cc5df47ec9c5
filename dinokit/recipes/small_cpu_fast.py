"""`small-cpu` with small crops first, in two thirds of its steps."""

from dinokit.recipes.small_cpu import small_cpu
from dinokit.recipes.words import *
from dinokit.training.config import with_settings

SHORTER = {"steps": 600, "stages.full.steps": 200, "stages.anchor.steps": 240}  # of 900, 300 and 400


def small_cpu_fast() -> TrainConfig:
    """Pretrain as `small-cpu` does, with crops of half the side for three quarters of the steps, then the Gram stage.

    Source: FastDINOv2 (arXiv:2507.03779), as recipes/words.py has it; fewer steps are ours.
    Command: dinokit pretrain small-cpu-fast --data PHOTOS --out runs/small
    Hardware: two CPU cores; 1,000 to 20,000 images, batch 32.
    Expected time: 0.43 to 0.45 of that of `small-cpu` with its Gram stage, in float32.
    Expected metric: on composed scenes that of `small-cpu` within the seeds' spread by k-NN, of objects it has and has
        not seen, locality and k-NN of patches; the linear head of patches is 0.7 points of mIoU below 8.7
        (docs/log.md, "small-cpu and its fast recipe").
    """
    base = small_cpu()
    small = replace(base, experiment=replace(curriculum(base.experiment), recipe="small-cpu-fast"))
    return with_settings(small, SHORTER)
