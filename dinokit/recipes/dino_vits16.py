"""DINO: ViT-S/16 on ImageNet-1k, 800 epochs."""

from dinokit.recipes.words import *

EPOCH = 1_251  # steps: 1,281,167 images in batches of 1024
STEPS = 800 * EPOCH


def dino_vits16() -> TrainConfig:
    """Pretrain a ViT-S/16 the way of DINO: centring and sharpening, one head, no masks.

    Source: DINO (arXiv:2104.14294, sections 3 and 4) and what is known of its released ViT-S/16 (rate, batch,
        temperature and trained lengths of the prototypes are second hand): base rate 5e-4 scaled by 1024 / 256. The
        temperature rises per step here, per epoch there; drop path works on subsets of the batch (models/block.py).
    Command: dinokit pretrain dino-vits16 --data imagenet/train --out runs/dino-vits16
    Hardware: batch 1024 wants several GPUs; `--data.accumulate N` saves memory (docs/design.md).
    Expected time: not published for 800 epochs.
    Expected metric: ImageNet-1k k-NN 74.5 %, linear 77.0 %.
    """
    first, second, local = augment.dino()
    return TrainConfig(
        experiment=Experiment(
            recipe="dino-vits16",
            steps=STEPS,
            data=Data(
                views=multicrop.Config(
                    global_size=224,
                    global_scale=(0.25, 1.0),
                    local_count=10,
                    local_size=96,
                    local_scale=(0.05, 0.25),
                    first=first,
                    second=second,
                    local=local,
                ),
                masks=None,
                pixels=Pixels(size=224),
                batch_size=1024,
            ),
            backbone=replace(VARIANTS["dino_vits16"], drop_path=0.1, drop_path_shape="linear"),
            objectives=ObjectiveConfigs(
                {
                    "dino": dino.Config(
                        head=head.Config(hidden=2048, bottleneck=256, prototypes=65_536, weight_norm="trainable"),
                        targets="centring",
                        teacher_temperature=ramp(0.04, 0.07, steps=30 * EPOCH),
                        centre_momentum=0.9,
                    )
                }
            ),
            optim=optim.Config(
                lr=cosine(2e-3, 1e-6, steps=STEPS, warmup=10 * EPOCH),
                weight_decay=cosine(0.04, 0.4, steps=STEPS),
                freeze_last_layer=EPOCH,
                freeze="gradient",
                clip=3.0,
                clip_per="parameter",
            ),
            momentum=cosine(0.996, 1.0, steps=STEPS),
        ),
        runtime=Runtime(checkpoint_every=10 * EPOCH),
    )
