"""DINOv3's ViT-7B/16 in its three stages, as published."""

from dinokit.recipes.words import *

STEPS = 1_000_000
RAMP = 1_000  # steps in which the Gram term comes and the local pairs lose half their weight


def dinov3_vit7b16() -> TrainConfig:
    """Pretrain a ViT-7B/16, anchor its dense features, adapt it to high resolution.

    Source: DINOv3 (arXiv:2508.10104) and the values of its released configurations: rates are those after the scaling
        by 4 * sqrt(batch / 1024); blur probabilities as that code has them. Where the two differ, the code's values
        stand here and the paper's in a comment: teacher momentum, size of the iBOT head, steps of the last stage. The
        paper does not say how long the Gram stage of the released weights was (at most 200,000 steps), nor which early
        teacher was their anchor: those of steps 100,000 and 200,000 were equally good.
    Command: dinokit pretrain dinov3-vit7b16 --data SOURCE --out runs/dinov3-vit7b16
    Hardware: published on 256 H100, 16 images each, 8 in the last stage; runtime.sharding fsdp.
    Expected time: 61,440 H100 hours in all.
    Expected metric: ADE20K linear mIoU from 50.3 to 55.7 and NYUv2 RMSE from 0.307 to 0.281 by the Gram stage, at
        ImageNet-1k linear 88.2 to 88.0 %.
    """
    temperature = ramp(0.04, 0.07, steps=100_000, inclusive=True)
    return TrainConfig(
        experiment=Experiment(
            recipe="dinov3-vit7b16",
            steps=STEPS,
            data=Data(
                views=multicrop.Config(global_size=256, local_size=112, flip=0.0),
                masks=masking.Config(probability=0.5, ratio=(0.1, 0.5), style="dinov3"),
                pixels=Pixels(size=256),
                batch_size=4096,
            ),
            backbone=replace(VARIANTS["dinov3_vit7b16"], drop_path=0.4),
            objectives=ObjectiveConfigs(
                {
                    "dino": dino.Config(
                        head=head.Config(hidden=8192, bottleneck=512, prototypes=262_144),
                        teacher_temperature=temperature,
                    ),
                    "ibot": ibot.Config(
                        head=head.Config(hidden=4096, bottleneck=384, prototypes=98_304),  # hidden 8192 in the paper
                        teacher_temperature=temperature,
                    ),
                    "koleo": koleo.Config(weight=0.1, group=16),
                }
            ),
            optim=optim.Config(
                lr=ramp(0.0, 4.0e-4, steps=100_000, inclusive=True),
                weight_decay=constant(0.04),
                betas=(0.9, 0.99),
                layer_decay=0.98,
                patch_embed_lr=0.2,
                freeze_last_layer=5_000,
                clip=30.0,
            ),
            momentum=constant(0.994),  # 0.999 in the paper
            stages=Stages({"anchor": _anchor(), "high_res": _high_res()}),
        ),
        runtime=Runtime(checkpoint_every=10_000, sharding="fsdp"),
    )


def _anchor() -> Stage:
    """Go on with everything, while the patches are held to the similarities of an early teacher."""
    return Stage(
        steps=200_000,
        begin="continue",
        changes=changes(
            objectives=anchored_objectives(ramp=RAMP),
            anchor=Anchor(source=Place("200000"), first=10_000, every=10_000, most=3),
            data={"views": {"anchor_size": 512}},
            optim={"lr": constant(2.4e-4), "freeze_last_layer": 0},
            momentum=constant(0.999),
        ),
    )


def _high_res() -> Stage:
    """Begin anew from the teacher with crops of several sizes; the anchor is that teacher and stays."""
    rising = Schedule(peak=0.0, end=7.07e-5, decay=10_000, shape="cosine", inclusive=True)
    sizes = (
        multicrop.Sizes(global_size=512, local_size=112, anchor_size=768, share=0.3),
        multicrop.Sizes(global_size=768, local_size=112, anchor_size=1152, share=0.3),
        # 168 in the code, which drops the last 8 pixels of each side: 10 x 10 patches
        multicrop.Sizes(global_size=768, local_size=160, anchor_size=1152, share=0.3),
        multicrop.Sizes(global_size=768, local_size=224, anchor_size=1152, share=0.05),
        multicrop.Sizes(global_size=768, local_size=336, anchor_size=1152, share=0.05),
    )
    return Stage(
        steps=30_000,  # 10,000 in the paper
        begin="teacher",
        changes=changes(
            objectives=HIGH_RES_OBJECTIVES,
            anchor=Anchor(),
            data={"batch_size": 2048, "views": {"sizes": sizes}},
            optim={"lr": rising, "freeze_last_layer": 0},
            momentum=constant(0.999),
        ),
    )
