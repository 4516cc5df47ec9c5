"""The words that a recipe is written in: `from dinokit.recipes.words import *` is all that it needs of this package.

The published values of DINOv2 and DINOv3 are the defaults where both agree, crops and colours among them; a recipe says
what differs. `stages` are the second and third of DINOv3 for networks that are smaller than its 7B, in the published
proportions.

Source: DINOv3 (arXiv:2508.10104) sections 4.2 and 5.1 and the values of its released configurations, which
`dinov3_vit7b16.py` has as they are: Gram weight 2 with a ramp, local pairs at half weight, anchor crops of twice the
side; then crops of two and three times the side, anchor crops 1.5 times those, Gram weight 1.5. Ours is what was not
published for smaller networks: how many steps, the rate, and that the anchor is chosen (`auto`) instead of given.

`curriculum` is FastDINOv2 (arXiv:2507.03779): crops of half the side, which have a quarter of the patches, for three
quarters of the steps, then whole ones with noise in squares. Ours is that rate, decay and momentum are held while
crops are small, as in DINOv3, and go to their ends in the last quarter, and what noise there is (views/noise.py).
"""

from dataclasses import replace
from typing import Any

from dinokit.config import to_plain
from dinokit.core.numbers import Schedule, constant, cosine, ramp
from dinokit.images.intensity import Pixels
from dinokit.models import head, vit
from dinokit.models.architecture import VARIANTS
from dinokit.objectives import dino, gram, ibot, koleo
from dinokit.training import optim
from dinokit.training.config import Data, Experiment, ObjectiveConfigs, Runtime, TrainConfig
from dinokit.training.course import AUTO, Anchor, Changes, Place, Stage, Stages, changed
from dinokit.views import augment, masking, multicrop
from dinokit.views.noise import Noise

__all__ = ["VARIANTS", "Data", "Experiment", "ObjectiveConfigs", "Pixels", "Runtime", "TrainConfig", "head", "vit"]
__all__ += ["augment", "dino", "gram", "ibot", "koleo", "masking", "multicrop", "optim", "replace", "stages"]
__all__ += ["AUTO", "Anchor", "Place", "Schedule", "Stage", "Stages", "changes", "constant", "cosine", "ramp"]
__all__ += ["HIGH_RES_OBJECTIVES", "anchored_objectives", "curriculum"]

RATE = 0.2  # of the peak of the pretraining, where a stage begins to fall; its optimiser has seen the end of a cosine
RAMP = 0.005  # of the steps of the pretraining, as the published 1,000 of 1,000,000 in the shorter runs here

SHARP = {"teacher_temperature": constant(0.07)}

# whole, so that the stage is the same without the one before it
HIGH_RES_OBJECTIVES = {"dino": {"local_weight": constant(0.5)} | SHARP, "ibot": SHARP, "gram": gram.Config(weight=1.5)}


def changes(**settings: Any) -> Changes:
    """Write what a stage changes: settings of the experiment, groups as dicts or configs."""
    return Changes(to_plain(settings))


def anchored_objectives(*, ramp: int) -> dict[str, object]:
    """Return what the published Gram stage changes in the objectives, within so many steps."""
    rising = Schedule(peak=0.0, end=1.0, decay=ramp, shape="cosine", inclusive=True)
    falling = Schedule(peak=1.0, end=0.5, decay=ramp, shape="linear", inclusive=True)
    return {"dino": {"local_weight": falling} | SHARP, "ibot": SHARP, "gram": gram.Config(weight=2.0, scale=rising)}


def stages(
    *, steps: int, batch: int, peak: float, end: float, crops: multicrop.Config, weight_decay: float, patch: int
) -> Stages:
    """Return the stages `anchor` and `high_res` after a pretraining.

    The first goes on with everything, while the patches are held to the similarities of the teacher that had the best;
    the second begins anew from the teacher with crops of several sizes, and its anchor is that teacher and stays.

    Args:
        steps: of the pretraining; the stages take 20 and 3 % of that.
        batch: of the pretraining, in images; the last stage takes half of it.
        peak: learning rate of the pretraining.
        end: learning rate with which each stage ends.
        crops: of the pretraining.
        weight_decay: with which the pretraining ended.
        patch: side of a patch in pixels, which the sizes of the last stage are multiples of.
    """
    anchored, high_res = steps // 5, steps * 3 // 100
    same = {"weight_decay": constant(weight_decay), "freeze_last_layer": 0}

    def size(times: int, local: float, share: float) -> multicrop.Sizes:
        side, local_side = times * crops.global_size, round(local * crops.local_size / patch) * patch
        return multicrop.Sizes(
            global_size=side, local_size=local_side, anchor_size=round(1.5 * side / patch) * patch, share=share
        )

    sizes = (size(2, 1.0, 0.3), size(3, 1.0, 0.3), size(3, 1.5, 0.3), size(3, 2.0, 0.05), size(3, 3.0, 0.05))
    first = Stage(
        steps=anchored,
        begin="continue",
        changes=changes(
            objectives=anchored_objectives(ramp=round(RAMP * steps)),
            anchor=Anchor(source=AUTO),
            data={"views": {"anchor_size": 2 * crops.global_size}},
            optim={"lr": cosine(RATE * peak, end, steps=anchored, warmup=anchored // 10)} | same,
            momentum=constant(0.999),
        ),
    )
    second = Stage(
        steps=high_res,
        begin="teacher",
        changes=changes(
            objectives=HIGH_RES_OBJECTIVES,
            anchor=Anchor(),
            data={"batch_size": batch // 2, "views": {"sizes": sizes}},
            optim={"lr": cosine(RATE * peak, end, steps=high_res, warmup=high_res // 3)} | same,
            momentum=constant(0.999),
        ),
    )
    return Stages({"anchor": first, "high_res": second})


def curriculum(experiment: Experiment) -> Experiment:
    """Return an experiment that looks at small crops first: its pretraining in two stages, then its others."""
    crops, patch, steps = experiment.data.views, experiment.backbone.patch_size, experiment.steps
    early = steps * 3 // 4

    def half(side: int) -> int:
        return -(-side // (2 * patch)) * patch

    def last(schedule: Schedule) -> Schedule:
        if schedule.shape == "constant":
            return constant(schedule.end)
        return cosine(schedule.peak, schedule.end, steps=steps - early)

    def noisy(noise: Noise | None) -> dict[str, object]:
        return {"views": {kind: {"noise": noise} for kind in ("first", "second", "local")}}

    optim, momentum = experiment.optim, experiment.momentum
    small = replace(crops, global_size=half(crops.global_size), local_size=half(crops.local_size))
    whole = {"global_size": crops.global_size, "local_size": crops.local_size}
    warm = {  # what has warmed up stays warm, for a stage counts its own steps
        name: {"teacher_temperature": constant(config.teacher_temperature.end)}
        for name, config in experiment.objectives.items()
        if hasattr(config, "teacher_temperature")
    }
    full = Stage(
        steps=steps - early,
        changes=changes(
            data=changed(noisy(Noise()), {"views": whole}),
            objectives=warm,
            optim={"lr": last(optim.lr), "weight_decay": last(optim.weight_decay), "freeze_last_layer": 0},
            momentum=last(momentum),
        ),
    )
    later = {
        name: replace(stage, changes=changes(**changed(to_plain({"data": noisy(None)}), stage.changes)))
        for name, stage in experiment.stages.items()
    }
    return replace(
        experiment,
        steps=early,
        data=replace(experiment.data, views=small),
        optim=replace(optim, lr=_held(optim.lr), weight_decay=_held(optim.weight_decay)),
        momentum=_held(momentum),
        stages=Stages({"full": full} | later),
    )


def _held(schedule: Schedule) -> Schedule:
    """Return the warm-up of a schedule and its peak, which stays."""
    return replace(schedule, end=schedule.peak, hold=0, decay=0, shape="constant")
