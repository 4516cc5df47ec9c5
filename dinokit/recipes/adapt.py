"""Continued pretraining of a published backbone on one GPU."""

from dinokit.recipes.words import *

FITTED, STEPS, BATCH = 1_000, 4_000, 64  # of the heads alone, of all; images
HEADS_RATE, RATE, LOWEST = 1e-3, 1e-4, 1e-6


def adapt() -> TrainConfig:
    """Fit heads to a frozen backbone, then go on with it at a low rate, its patches held to what they were.

    Source: ours; the losses of DINOv3 with as many prototypes as a few thousand images fill, rates that fall towards
        the input (arXiv:2003.10555, section 3.4; 0.75 of each block, as ViT-S and B are fine-tuned), the Gram loss and
        its weight of DINOv3 (arXiv:2508.10104, section 4) with the backbone itself, as it was, for an anchor.
    Command: dinokit adapt --from vits14.dinov2 --data PHOTOS --out runs/adapted, which takes the network and its
        patches; dinokit pretrain adapt --backbone auto --from WEIGHTS --data PHOTOS --out runs/adapted
    Hardware: one GPU of 24 GB or more, up to ViT-B; `--data.accumulate N` saves memory (docs/design.md).
    Expected time, expected metric: not measured yet, for want of a GPU.
    """
    prototypes, sharp = head.Config(prototypes=4_096), constant(0.05)
    return TrainConfig(
        experiment=Experiment(
            recipe="adapt",
            steps=FITTED,
            data=Data(
                views=multicrop.Config(global_size=224, local_size=98, local_count=6),
                masks=masking.Config(probability=0.5, ratio=(0.1, 0.5), style="dinov3"),
                pixels=Pixels(size=224),
                batch_size=BATCH,
            ),
            backbone=VARIANTS["dinov2_vits14"],
            objectives=ObjectiveConfigs(
                {
                    "dino": dino.Config(head=prototypes, teacher_temperature=sharp),
                    "ibot": ibot.Config(head=prototypes, teacher_temperature=sharp),
                    "koleo": koleo.Config(weight=0.1, group=BATCH // 2),
                }
            ),
            optim=optim.Config(
                lr=Schedule(peak=HEADS_RATE, end=HEADS_RATE, warmup=FITTED // 20),  # falling would look like settling
                weight_decay=constant(0.04),
                trained="heads",
                clip=3.0,
            ),
            momentum=constant(0.994),
            stages=Stages({"adapt": _adapt()}),
        ),
        runtime=Runtime(checkpoint_every=500),
    )


def _adapt() -> Stage:
    rising = Schedule(peak=0.0, end=1.0, decay=100, shape="cosine", inclusive=True)
    return Stage(
        steps=STEPS,
        changes=changes(
            objectives={"gram": gram.Config(weight=2.0, scale=rising)},
            anchor=Anchor(),
            data={"views": {"anchor_size": 224}},
            optim={
                "lr": cosine(RATE, LOWEST, steps=STEPS, warmup=STEPS // 10),
                "trained": "all",
                "layer_decay": 0.75,
            },
            momentum=constant(0.999),
        ),
    )
