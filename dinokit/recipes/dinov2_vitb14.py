"""DINOv2 at ImageNet-22k scale: ViT-B/14."""

from dinokit.recipes.words import *

STEPS = 625_000  # 500 "epochs" of 1,250


def dinov2_vitb14() -> TrainConfig:
    """Pretrain a ViT-B/14 with the values published for ViT-L/14: Sinkhorn-Knopp, two heads, masked patches, KoLeo.

    Source: DINOv2 (arXiv:2304.07193, section 4 and appendix B) and the released ImageNet-22k configuration: base rate
        2e-4 scaled by sqrt(3072 / 1024), blur probabilities as that code applies them. The released ViT-B is distilled
        from ViT-g, so only the architecture differs from what was published.
    Command: dinokit pretrain dinov2-vitb14 --data images --out runs/dinov2-vitb14
    Hardware: ViT-L was published on 96 A100, 32 images each; `--data.accumulate N` saves memory (docs/design.md).
    Expected time: 3.3 days there for ViT-L.
    Expected metric: ViT-L on ImageNet-22k reaches ImageNet-1k k-NN 82.0 %, linear 84.5 %; not published for ViT-B.
    """
    temperature = ramp(0.04, 0.07, steps=37_500)
    return TrainConfig(
        experiment=Experiment(
            recipe="dinov2-vitb14",
            steps=STEPS,
            data=Data(
                views=multicrop.Config(global_size=224, local_size=98),
                masks=masking.Config(probability=0.5, ratio=(0.1, 0.5), style="dinov2"),
                pixels=Pixels(size=224),
                batch_size=3072,
            ),
            # a table of 16 x 16 for the 224 px of pretraining; the released 37 x 37 comes from the high-resolution end
            backbone=replace(VARIANTS["dinov2_vitb14"], position_grid=16, layer_scale=1e-5, drop_path=0.4),
            objectives=ObjectiveConfigs(
                {
                    "dino": dino.Config(
                        head=head.Config(hidden=2048, bottleneck=384, prototypes=131_072, weight_norm="trainable"),
                        teacher_temperature=temperature,
                    ),
                    "ibot": ibot.Config(
                        head=head.Config(hidden=2048, bottleneck=256, prototypes=131_072, weight_norm="trainable"),
                        teacher_temperature=temperature,
                    ),
                    "koleo": koleo.Config(weight=0.1, group=32),
                }
            ),
            optim=optim.Config(
                lr=cosine(3.46e-4, 1e-6, steps=STEPS, warmup=100_000),
                weight_decay=cosine(0.04, 0.2, steps=STEPS),
                patch_embed_lr=0.2,
                freeze_last_layer=1_250,
                clip=3.0,
            ),
            momentum=cosine(0.994, 1.0, steps=STEPS),
        ),
        runtime=Runtime(checkpoint_every=12_500),
    )
