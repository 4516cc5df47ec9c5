"""DINOv3 at ImageNet-1k scale: ViT-L/16, as published."""

from dinokit.recipes.words import *

STEPS = 125_000  # 100 "epochs" of 1,250


def dinov3_vitl16() -> TrainConfig:
    """Pretrain a ViT-L/16 as DINOv3 does on ImageNet-1k, anchor its dense features, adapt it to high resolution.

    The first stage is what is published; `--stages.anchor null --stages.high_res null` leaves the others out.

    Source: DINOv3 (arXiv:2508.10104) and the values of its released ImageNet-1k configuration: no registers, key bias
        kept, LayerNorm eps 1e-6, base rate 1e-3 scaled by 4 * sqrt(2048 / 1024), blur probabilities as that code has
        them. The stages after it: proportions of the 7B model (recipes/words.py).
    Command: dinokit pretrain dinov3-vitl16 --data imagenet/train --out runs/dinov3-vitl16
    Hardware: published on 32 H100, 64 images each.
    Expected time: 14 hours there for the first stage.
    Expected metric: after the first stage, ImageNet-1k k-NN 82.0 to 82.2 %, linear 83.3 to 83.5 %.
    """
    temperature = ramp(0.04, 0.07, steps=37_500)
    prototypes = head.Config(hidden=2048, bottleneck=256, prototypes=65_536)
    crops = multicrop.Config(global_size=224, local_size=96)
    return TrainConfig(
        experiment=Experiment(
            recipe="dinov3-vitl16",
            steps=STEPS,
            data=Data(
                views=crops,
                masks=masking.Config(probability=0.5, ratio=(0.1, 0.5), style="dinov3"),
                pixels=Pixels(size=224),
                batch_size=2048,
            ),
            backbone=replace(
                VARIANTS["dinov3_vitl16"], registers=0, qkv_bias="qkv", norm_eps=1e-6, layer_scale=1e-5, drop_path=0.3
            ),
            objectives=ObjectiveConfigs(
                {
                    "dino": dino.Config(head=prototypes, teacher_temperature=temperature),
                    "ibot": ibot.Config(head=prototypes, teacher_temperature=temperature),
                    "koleo": koleo.Config(weight=0.1, group=64),
                }
            ),
            optim=optim.Config(
                lr=cosine(5.66e-3, 1e-6, steps=STEPS, warmup=12_500),
                weight_decay=cosine(0.04, 0.4, steps=STEPS),
                layer_decay=0.9,
                patch_embed_lr=0.2,
                freeze_last_layer=1_250,
                clip=3.0,
            ),
            momentum=cosine(0.992, 1.0, steps=STEPS),
            stages=stages(steps=STEPS, batch=2048, peak=5.66e-3, end=1e-6, crops=crops, weight_decay=0.4, patch=16),
        ),
        runtime=Runtime(checkpoint_every=6_250),
    )
