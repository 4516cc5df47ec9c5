"""Continued pretraining of a small network, for a few hundred to a few thousand pictures and no GPU."""

from dinokit.recipes.small_cpu import small_cpu
from dinokit.recipes.words import *

FITTED, STEPS = 40, 200  # of the heads alone, of all
RATE, LOWEST = 2e-3, 1e-5  # half of what `demo` begins with


def adapt_small() -> TrainConfig:
    """Fit heads to a frozen small ViT, then go on with it at a low rate, its patches held to what they were.

    Source: ours; the losses and crops of `small-cpu`, and what keeps a network while it learns on: heads before
        anything else, rates that fall towards the input (arXiv:2003.10555, section 3.4), and the Gram loss of DINOv3
        (arXiv:2508.10104, section 4) with the network itself, as it was, for an anchor.
    Command: dinokit adapt --from RUN --data PHOTOS --out runs/adapted, which takes the network, the crops and the heads
        of what it adapts; dinokit pretrain adapt-small --backbone auto --from RUN --data PHOTOS --out runs/adapted
    Hardware: two CPU cores.
    Expected time: half a minute of one core for `demo` at 24 px and batch 64, one and a half for `small-cpu` and 400
        steps at its batch of 32.
    Expected metric: `small-cpu` of composed scenes, adapted to emoji in 40 + 400 steps: k-NN of the folder, each image
        without itself, 62 % (57 before, 59 from scratch with as many images), of the old 34 % (33 before); means of
        three seeds, docs/log.md, "A small backbone adapted to placed clothes, and to emoji".
    """
    base = small_cpu()
    experiment = replace(
        base.experiment,
        recipe="adapt-small",
        steps=FITTED,
        optim=replace(base.experiment.optim, lr=Schedule(peak=RATE, end=RATE, warmup=3), trained="heads"),
        momentum=constant(0.99),
        stages=Stages({"adapt": _adapt()}),
    )
    return replace(base, experiment=experiment, runtime=Runtime(checkpoint_every=40, log_every=2))


def _adapt() -> Stage:
    rising = Schedule(peak=0.0, end=1.0, decay=20, shape="cosine", inclusive=True)
    return Stage(
        steps=STEPS,
        changes=changes(
            objectives={"gram": gram.Config(weight=5.0, scale=rising)},
            anchor=Anchor(),
            data={"views": {"anchor_size": 48}},
            optim={
                "lr": cosine(RATE, LOWEST, steps=STEPS, warmup=STEPS // 10),
                "trained": "all",
                "layer_decay": 0.8,
            },
            momentum=constant(0.99),
        ),
    )
