"""DINOv3 with its Gram stage for a few thousand pictures and no GPU."""

from dinokit.recipes.words import *

STEPS, ANCHORED = 1_200, 400
RATE, LOWEST = 2e-3, 2e-5


def small_cpu() -> TrainConfig:
    """Pretrain a small ViT on photos of about 64 to 256 px, then hold its patches to the teacher that had the best.

    Source: ours; the objectives and the stages of DINOv3 (arXiv:2508.10104) at a size for two cores, with what
        docs/log.md found to matter there: heads that start at the scale of their inputs, a convolution before the
        patches, a quick and sharp teacher.
    Command: dinokit pretrain small-cpu --data PHOTOS --out runs/small
    Hardware: two CPU cores; 1,000 to 20,000 images, batch 32.
    Expected time: 3.6 minutes of one core before the Gram stage, in float32; that stage about 2 (docs/log.md).
    Expected metric: see docs/log.md, "Gram anchoring of a small run"; that Gram weighs ten times the published
        2, which hardly moves networks this small, is found there as well.
    """
    light = augment.Config(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.02, grayscale=0.1, blur=0.1)
    sharp = constant(0.04)
    return TrainConfig(
        experiment=Experiment(
            recipe="small-cpu",
            steps=STEPS,
            data=Data(
                views=multicrop.Config(
                    global_size=48,
                    global_scale=(0.3, 1.0),
                    local_count=2,
                    local_size=24,
                    local_scale=(0.1, 0.3),
                    flip=0.5,
                    kernel="bilinear",
                    first=light,
                    second=light,
                    local=light,
                ),
                masks=masking.Config(probability=0.5, ratio=(0.1, 0.5)),
                pixels=Pixels(size=64),
                batch_size=32,
            ),
            backbone=vit.Config(
                patch_size=8, stem=24, dim=96, depth=3, heads=3, registers=0, ffn_hidden=288, layer_scale=0.1
            ),
            objectives=ObjectiveConfigs(
                {
                    "dino": dino.Config(
                        head=head.Config(hidden=256, bottleneck=64, prototypes=1_024, init="narrow"),
                        teacher_temperature=sharp,
                    ),
                    "ibot": ibot.Config(
                        head=head.Config(hidden=256, bottleneck=64, prototypes=512, init="narrow"),
                        teacher_temperature=sharp,
                    ),
                    "koleo": koleo.Config(weight=0.1, group=16),
                }
            ),
            optim=optim.Config(
                lr=cosine(RATE, LOWEST, steps=STEPS, warmup=60, hold=STEPS * 2 // 3),
                weight_decay=constant(0.04),
                clip=3.0,
            ),
            momentum=cosine(0.985, 0.998, steps=STEPS),
            stages=Stages({"anchor": _anchor()}),
        ),
        runtime=Runtime(checkpoint_every=200),
    )


def _anchor() -> Stage:
    rising = Schedule(peak=0.0, end=1.0, decay=40, shape="cosine", inclusive=True)
    return Stage(
        steps=ANCHORED,
        changes=changes(
            objectives={"gram": gram.Config(weight=20.0, scale=rising)},
            anchor=Anchor(source=AUTO),
            data={"views": {"anchor_size": 96}},
            optim={"lr": cosine(RATE / 2, LOWEST, steps=ANCHORED, warmup=40)},
            momentum=constant(0.998),
        ),
    )
