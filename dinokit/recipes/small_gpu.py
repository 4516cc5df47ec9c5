"""DINOv3 in three stages for up to 100,000 images and one GPU."""

from dinokit.recipes.dinov3_vitl16 import dinov3_vitl16
from dinokit.recipes.words import *

STEPS, BATCH = 50_000, 128
RATE = 1.4e-3  # 4e-3 * sqrt(BATCH / 1024), the published rule


def small_gpu() -> TrainConfig:
    """Pretrain a ViT-S/16 at 224 px with a batch of 128, anchor its dense features, adapt it to high resolution.

    Source: ours; `dinov3_vitl16` with the rate of DINOv3's rule for this batch, fewer prototypes for fewer images, less
        weight decay at the end, and a teacher that keeps more of itself than at batch 2,048.
    Command: dinokit pretrain small-gpu --data PHOTOS --out runs/small
    Hardware: one GPU of 24 GB or more (`dinokit plan small-gpu --gpu_memory 24 --tflops 150` says what fits); 10,000 to
        100,000 images. For another batch multiply optim.lr.peak by sqrt(batch / 128).
    Expected time, expected metric: not measured yet, for want of a GPU.
    """
    large = dinov3_vitl16().experiment
    temperature = ramp(0.04, 0.07, steps=STEPS * 3 // 10)
    experiment = replace(
        large,
        recipe="small-gpu",
        steps=STEPS,
        data=replace(large.data, batch_size=BATCH),
        backbone=replace(VARIANTS["dinov3_vits16"], drop_path=0.1),
        objectives=ObjectiveConfigs(
            {
                "dino": dino.Config(head=head.Config(prototypes=8_192), teacher_temperature=temperature),
                "ibot": ibot.Config(head=head.Config(prototypes=4_096), teacher_temperature=temperature),
                "koleo": koleo.Config(weight=0.1, group=BATCH // 2),
            }
        ),
        optim=replace(
            large.optim,
            lr=cosine(RATE, 1e-6, steps=STEPS, warmup=STEPS // 10),
            weight_decay=cosine(0.04, 0.2, steps=STEPS),
            freeze_last_layer=500,
        ),
        momentum=cosine(0.996, 1.0, steps=STEPS),
        stages=stages(
            steps=STEPS, batch=BATCH, peak=RATE, end=1e-6, crops=large.data.views, weight_decay=0.2, patch=16
        ),
    )
    return TrainConfig(experiment=experiment, runtime=Runtime(checkpoint_every=2_000))
