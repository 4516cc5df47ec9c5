"""The demo: DINOv3 in miniature, minutes on two CPU cores."""

from dinokit.recipes.words import *

STEPS = 1_850


def demo() -> TrainConfig:
    """Pretrain a small ViT on small pictures: Sinkhorn-Knopp, masked patches, KoLeo, multi-crop.

    Source: ours; DINOv3's objectives with what docs/log.md found to matter at this size: heads that start at the scale
        of their inputs, a sharp and quick teacher, a convolution before the patches, gentle crops with smooth resizing,
        small turns, light as the only other distortion, and a rate that is held for two thirds of the run.
    Command: dinokit pretrain demo --data demo:fashion --out runs/demo
    Hardware: two CPU cores.
    Expected time: four to five minutes.
    Expected metric: k-NN on demo:fashion 83.6 % (raw pixels 81.3 to 81.8 %), on demo:fashion-placed 71.7 % (66.3 to
        68.8 %); means of three seeds, see docs/log.md.
    """
    light = augment.Config(brightness=0.8, contrast=0.6, saturation=0.0, hue=0.0, grayscale=0.0, blur=0.0)
    sharp = constant(0.03)
    return TrainConfig(
        experiment=Experiment(
            recipe="demo",
            steps=STEPS,
            data=Data(
                views=multicrop.Config(
                    global_size=24,
                    global_scale=(0.5, 1.0),
                    local_count=2,
                    local_size=16,
                    local_scale=(0.3, 0.7),
                    flip=0.0,
                    rotate=12.0,
                    kernel="bilinear",
                    fit="clip",
                    first=light,
                    second=light,
                    local=light,
                ),
                masks=masking.Config(probability=0.5, ratio=(0.1, 0.5)),
                pixels=Pixels((0.3,), (0.35,), 24),
                batch_size=64,
            ),
            backbone=vit.Config(
                patch_size=8, stem=24, dim=96, depth=3, heads=2, registers=0, ffn_hidden=192, layer_scale=0.1
            ),
            objectives=ObjectiveConfigs(
                {
                    "dino": dino.Config(
                        head=head.Config(hidden=256, bottleneck=64, prototypes=512, init="narrow"),
                        teacher_temperature=sharp,
                    ),
                    "ibot": ibot.Config(
                        head=head.Config(hidden=128, bottleneck=32, prototypes=256, init="narrow"),
                        teacher_temperature=sharp,
                    ),
                    "koleo": koleo.Config(weight=0.1, group=32),
                }
            ),
            optim=optim.Config(
                lr=cosine(4e-3, 4e-5, steps=STEPS, warmup=100, hold=STEPS * 2 // 3),
                weight_decay=constant(0.04),
                clip=3.0,
            ),
            momentum=cosine(0.98, 0.995, steps=STEPS),
        ),
        runtime=Runtime(checkpoint_every=185, processes=2),
    )
