"""What a distillation begins with: the settings of its teacher's run, or what suits a published teacher."""

from math import ceil, lcm
from typing import Any

from dinokit.checkpoints.load import load
from dinokit.core.messages import info
from dinokit.models.features import Backbone
from dinokit.recipes.words import *
from dinokit.training.course import Distillation, Students, chosen
from dinokit.training.teacher import TeacherRun, teacher_run

STEPS = 10_000  # for a teacher that is no run of ours


def distilled(teacher: str, names: str) -> TrainConfig:
    """Return what the teacher was trained with, or what suits a published one.

    Args:
        teacher: as `dinokit distill` takes it.
        names: architectures of the students, by comma.
    """
    network = load(teacher)
    found = {name: replace(each, channels=network.channels) for name, each in chosen(names).items()}
    distil = Distillation(teacher=teacher, students=Students(found))
    run = teacher_run(teacher)
    if run is None:
        return _plain(network, distil)
    # the step is named, so that the run may go on training while its students learn
    return _like(run, replace(distil, teacher=str(run.folder.checkpoint(run.step))))


def _like(run: TeacherRun, distil: Distillation) -> TrainConfig:
    """Keep the settings of the teacher's first stage, but for what belongs to its anchor."""
    config = run.config
    before, crops = config.experiment, config.experiment.data.views
    sizes = tuple(replace(each, anchor_size=0) for each in crops.sizes)
    objectives = {name: config.for_students() for name, config in before.objectives.items()}
    experiment = replace(
        before,
        recipe="distil",
        backbone=distil.students[distil.shown],
        data=replace(before.data, views=_fitting(replace(crops, anchor_size=0, sizes=sizes), distil)),
        objectives=ObjectiveConfigs({name: config for name, config in objectives.items() if config is not None}),
        optim=quicker(before.optim),
        anchor=None,
        start=None,
        stages=Stages({}),
        distil=distil,
    )
    runtime = replace(config.runtime, sharding="none", compile=False, recompute="none")
    return replace(config, experiment=experiment, runtime=runtime)


def quicker(settings: optim.Config) -> optim.Config:
    """Double the rate: targets that stand still bear it (docs/log.md), and DINOv2's distilled models had three times.

    Source: DINOv2 (arXiv:2304.07193) appendix, 1e-3 for distilled models beside 3.5e-4 from scratch.
    """
    rate = settings.lr
    return replace(settings, lr=replace(rate, start=2 * rate.start, peak=2 * rate.peak, end=2 * rate.end))


def _fitting(crops: multicrop.Config, distil: Distillation) -> multicrop.Config:
    """Bring sizes to the nearest that every student can look at; a convolution takes any local crop it fits into."""
    networks = list(distil.students.values())
    coarsest = max(network.patch_size for network in networks)
    all_of, of_transformers = (
        lcm(*(network.patch_size for network in some))
        for some in (networks, [network for network in networks if network.whole_patches])
    )

    def near(side: int, unit: int) -> int:
        return max(round(side / unit), ceil(coarsest / unit)) * unit

    def fitted(each: Any) -> Any:
        global_size, local_size = near(each.global_size, all_of), near(each.local_size, of_transformers)
        return replace(each, global_size=global_size, local_size=local_size)

    found: multicrop.Config = replace(fitted(crops), sizes=tuple(map(fitted, crops.sizes)))
    if found != crops:
        info(f"crops of {found.global_size} and {found.local_size} px, which suit every student's patches")
    return found


def _plain(teacher: Backbone, distil: Distillation) -> TrainConfig:
    """Return settings for a published backbone: DINOv3's crops and losses, a rate for a batch of 64."""
    side = teacher.pixels.size or 224
    crops = _fitting(multicrop.Config(global_size=side, local_size=round(0.43 * side), local_count=4), distil)
    prototypes = head.Config(prototypes=1024)
    sharp = constant(0.05)
    return TrainConfig(
        experiment=Experiment(
            recipe="distil",
            steps=STEPS,
            data=Data(
                views=crops,
                masks=masking.Config(probability=0.5, ratio=(0.1, 0.5), style="dinov3"),
                pixels=Pixels(teacher.pixels.mean, teacher.pixels.std, crops.global_size),
                batch_size=64,
            ),
            backbone=distil.students[distil.shown],
            objectives=ObjectiveConfigs(
                {
                    "dino": dino.Config(head=prototypes, teacher_temperature=sharp).for_students(),
                    "ibot": ibot.Config(head=prototypes, teacher_temperature=sharp).for_students(),
                    "koleo": koleo.Config().for_students(),
                }
            ),
            optim=optim.Config(
                lr=cosine(1e-3, 1e-6, steps=STEPS, warmup=STEPS // 10), weight_decay=constant(0.04), clip=3.0
            ),
            momentum=constant(0.994),
            distil=distil,
        ),
        runtime=Runtime(),
    )
