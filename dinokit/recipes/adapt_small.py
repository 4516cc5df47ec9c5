"""Continued pretraining of a small network, for a few hundred to a few thousand pictures and no GPU."""

from dinokit.recipes.small_cpu import small_cpu
from dinokit.recipes.words import *

FITTED, STEPS = 150, 450  # of the heads alone, of all
HEADS_RATE, RATE, LOWEST = 2e-3, 5e-4, 1e-5


def adapt_small() -> TrainConfig:
    """Fit heads to a frozen small ViT, then go on with it at a low rate, its patches held to what they were.

    Source: ours; the losses and crops of `small-cpu`, and what keeps a network while it learns on: heads before
        anything else, rates that fall towards the input (arXiv:2003.10555, section 3.4), and the Gram loss of DINOv3
        (arXiv:2508.10104, section 4) with the network itself, as it was, for an anchor.
    Command: dinokit adapt --from RUN --data PHOTOS --out runs/adapted, which takes the network, the crops and the heads
        of what it adapts; dinokit pretrain adapt-small --backbone auto --from RUN --data PHOTOS --out runs/adapted
    Hardware: two CPU cores.
    Expected time, expected metric: not shown yet; docs/log.md, "A small backbone adapted to other pictures", has one
        seed at other lengths: little gained at this rate, more at six times that.
    """
    base = small_cpu()
    experiment = replace(
        base.experiment,
        recipe="adapt-small",
        steps=FITTED,
        optim=replace(base.experiment.optim, lr=cosine(HEADS_RATE, RATE, steps=FITTED, warmup=10), trained="heads"),
        momentum=constant(0.99),
        stages=Stages({"adapt": _adapt()}),
    )
    return replace(base, experiment=experiment, runtime=Runtime(checkpoint_every=75))


def _adapt() -> Stage:
    rising = Schedule(peak=0.0, end=1.0, decay=20, shape="cosine", inclusive=True)
    return Stage(
        steps=STEPS,
        changes=changes(
            objectives={"gram": gram.Config(weight=20.0, scale=rising)},
            anchor=Anchor(),
            data={"views": {"anchor_size": 48}},
            optim={
                "lr": cosine(RATE, LOWEST, steps=STEPS, warmup=STEPS // 10),
                "trained": "all",
                "layer_decay": 0.7,
            },
            momentum=constant(0.99),
        ),
    )
