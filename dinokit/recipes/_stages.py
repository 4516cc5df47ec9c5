"""The second and third stage of DINOv3 for networks that are smaller than its 7B; the proportions are the published.

Source: DINOv3 (arXiv:2508.10104) sections 4.2 and 5.1 and the values of its released configurations, which
`dinov3_vit7b16.py` has as they are: Gram weight 2 with a ramp, local pairs at half weight, anchor crops of twice the
side; then crops of two and three times the side, anchor crops 1.5 times those, Gram weight 1.5. Ours is what was not
published for smaller networks: how many steps, the rate, and that the anchor is chosen (`auto`) instead of given.
"""

from dinokit.config import to_plain
from dinokit.core.schedule import Schedule, constant, cosine
from dinokit.objectives import gram
from dinokit.training import anchor
from dinokit.training.stages import Changes, Stage, Stages
from dinokit.views import multicrop

RATE = 0.2  # of the peak of the pretraining, where a stage begins to fall; its optimiser has seen the end of a cosine
RAMP = 0.005  # of the steps of the pretraining, as the published 1,000 of 1,000,000 in the shorter runs here

SHARP = {"teacher_temperature": constant(0.07)}

# whole, so that the stage is the same without the one before it
HIGH_RES_OBJECTIVES = {"dino": {"local_weight": constant(0.5)} | SHARP, "ibot": SHARP, "gram": gram.Config(weight=1.5)}


def anchored_objectives(*, ramp: int) -> dict[str, object]:
    """Return what the published Gram stage changes in the objectives, within so many steps."""
    rising = Schedule(peak=0.0, end=1.0, decay=ramp, shape="cosine", inclusive=True)
    falling = Schedule(peak=1.0, end=0.5, decay=ramp, shape="linear", inclusive=True)
    return {
        "dino": {"local_weight": falling} | SHARP,
        "ibot": SHARP,
        "gram": gram.Config(weight=2.0, scale=rising),
    }


def stages(
    *, steps: int, batch: int, peak: float, end: float, crops: multicrop.Config, weight_decay: float, patch: int
) -> Stages:
    """Return the stages `anchor` and `high_res` after a pretraining.

    Args:
        steps: of the pretraining; the stages take 20 and 3 % of that.
        batch: of the pretraining, in images; the last stage takes half of it.
        peak: learning rate of the pretraining.
        end: learning rate with which each stage ends.
        crops: of the pretraining.
        weight_decay: with which the pretraining ended.
        patch: side of a patch in pixels, which the sizes of the last stage are multiples of.
    """
    return Stages(
        {
            "anchor": _anchor(
                steps // 5, ramp=round(RAMP * steps), peak=RATE * peak, end=end, crops=crops, decay=weight_decay
            ),
            "high_res": _high_res(
                steps * 3 // 100,
                batch=batch // 2,
                peak=RATE * peak,
                end=end,
                crops=crops,
                decay=weight_decay,
                patch=patch,
            ),
        }
    )


def _anchor(steps: int, *, ramp: int, peak: float, end: float, crops: multicrop.Config, decay: float) -> Stage:
    """Go on with everything, while the patches are held to the similarities of the teacher that had the best."""
    return Stage(
        steps=steps,
        begin="continue",
        changes=Changes(
            to_plain(
                {
                    "objectives": anchored_objectives(ramp=ramp),
                    "anchor": anchor.Config(source=anchor.AUTO),
                    "data": {"views": {"anchor_size": 2 * crops.global_size}},
                    "optim": {
                        "lr": cosine(peak, end, steps=steps, warmup=steps // 10),
                        "weight_decay": constant(decay),
                        "freeze_last_layer": 0,
                    },
                    "momentum": constant(0.999),
                }
            )
        ),
    )


def _high_res(
    steps: int, *, batch: int, peak: float, end: float, crops: multicrop.Config, decay: float, patch: int
) -> Stage:
    """Begin anew from the teacher with crops of several sizes; the anchor is that teacher and stays."""

    def size(times: int, local: float, share: float) -> multicrop.Sizes:
        side = times * crops.global_size
        local_side = round(local * crops.local_size / patch) * patch
        return multicrop.Sizes(
            global_size=side, local_size=local_side, anchor_size=round(1.5 * side / patch) * patch, share=share
        )

    sizes = (size(2, 1.0, 0.3), size(3, 1.0, 0.3), size(3, 1.5, 0.3), size(3, 2.0, 0.05), size(3, 3.0, 0.05))
    return Stage(
        steps=steps,
        begin="teacher",
        changes=Changes(
            to_plain(
                {
                    "objectives": HIGH_RES_OBJECTIVES,
                    "anchor": anchor.Config(),
                    "data": {"batch_size": batch, "views": {"sizes": sizes}},
                    "optim": {
                        "lr": cosine(peak, end, steps=steps, warmup=steps // 3),
                        "weight_decay": constant(decay),
                        "freeze_last_layer": 0,
                    },
                    "momentum": constant(0.999),
                }
            )
        ),
    )
