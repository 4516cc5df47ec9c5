"""`dinokit distill`: train small students on what a frozen teacher says"""

from dataclasses import replace
from math import ceil, lcm
from pathlib import Path

from dinokit import config as configuration
from dinokit.checkpoints.load import load
from dinokit.checkpoints.store import RunFolder, run_and_step
from dinokit.commands.running import trained
from dinokit.config import NO_SETTINGS, Settings
from dinokit.core import dist
from dinokit.core import slurm as srun
from dinokit.core.errors import UserError
from dinokit.core.log import console, info
from dinokit.core.schedule import constant, cosine
from dinokit.images.normalisation import Pixels
from dinokit.models import head
from dinokit.models.features import Backbone
from dinokit.objectives import dino, ibot, koleo
from dinokit.sources.source import absolute, open_source
from dinokit.training import optim, students
from dinokit.training.config import HALVES, Data, Experiment, ObjectiveConfigs, Runtime, TrainConfig, with_settings
from dinokit.training.stages import Stages
from dinokit.training.teacher import TeacherRun, teacher_run
from dinokit.views import masking, multicrop

STEPS = 10_000  # for a teacher that is no run of ours


def distill(
    *,
    teacher: str,
    students: str,
    data: str = "",
    out: Path,
    settings: Settings = NO_SETTINGS,
) -> int:
    """Train several small students on what one frozen teacher says of a folder of images.

    OUT receives STUDENT.safetensors of each; model.safetensors is the first transformer among them. Crops, objectives
    and schedules are those with which the teacher was trained if it is a run of ours, whose heads are used too; a
    teacher without heads gets prototypes by k-means. A student's own head of the CLS has one layer, and its rate is
    twice that of its teacher. Any setting can be changed by its dotted key; with several processes, `--runtime.groups
    true` gives each student an equal share of them to itself.

    Args:
        teacher: a run folder, RUN/checkpoints/STEP, a weights file, a name that `dinokit models` lists.
        students: architectures by comma, as `dinokit models` lists them: vit_tiny,vits16,convnext_tiny.
        data: images as `pretrain` takes them; if not given, those of the teacher's run.
        out: the folder of the run; the same command again continues it.
    """
    srun.adopt()
    console.quiet = not dist.is_main()  # known only now
    place = str(Path(teacher).absolute()) if Path(teacher).exists() else teacher
    config = with_settings(_defaults(_begun_with(place, RunFolder(Path(out))), students), settings)
    source_of = absolute(data or config.experiment.data.source)
    if not source_of:
        raise UserError("no images are given; add --data FOLDER")
    config = configuration.override(config, {"experiment.data.source": source_of}, hidden=HALVES)
    source = open_source(source_of, labels=config.experiment.data.labels)
    for name, student in config.experiment.distil.students.items() if config.experiment.distil else ():
        info(f"student {name}: {student.kind} of width {student.dim}, file {name}.safetensors")
    return trained(config, source, RunFolder(Path(out)))


def _begun_with(teacher: str, out: RunFolder) -> str:
    """Return the teacher; if it is a run, which may have trained on since, the step of it that OUT has begun with."""
    folder, step = run_and_step(Path(teacher))
    if step is not None or not out.steps():
        return teacher
    begun = configuration.from_plain(TrainConfig, configuration.read_yaml(out.config)).experiment.distil
    same = begun is not None and run_and_step(Path(begun.teacher))[0] == folder
    return begun.teacher if begun is not None and same else teacher


def _defaults(teacher: str, names: str) -> TrainConfig:
    """Return what the teacher was trained with, or what suits a published one."""
    network = load(teacher)
    chosen = students.Config(teacher=teacher, students=_of_channels(students.chosen(names), network.channels))
    run = teacher_run(teacher)
    if run is None:
        return _plain(network, chosen)
    # the step is named, so that the run may go on training while its students learn
    return _like(run, replace(chosen, teacher=str(run.folder.checkpoint(run.step))))


def _like(run: TeacherRun, chosen: students.Config) -> TrainConfig:
    """Keep the settings of the teacher's first stage, but for what belongs to its anchor."""
    config = configuration.from_plain(TrainConfig, configuration.read_yaml(run.folder.config))
    before = config.experiment
    objectives = {name: config.for_students() for name, config in before.objectives.items()}
    experiment = replace(
        before,
        recipe="distil",
        backbone=chosen.students[chosen.shown],
        data=replace(before.data, views=_fitting(_without_anchors(before.data.views), chosen)),
        objectives=ObjectiveConfigs({name: config for name, config in objectives.items() if config is not None}),
        optim=quicker(before.optim),
        anchor=None,
        start=None,
        stages=Stages({}),
        distil=chosen,
    )
    runtime = replace(config.runtime, sharding="none", compile=False, recompute="none")
    return replace(config, experiment=experiment, runtime=runtime)


def quicker(settings: optim.Config) -> optim.Config:
    """Double the rate: targets that stand still bear it (docs/log.md), and DINOv2's distilled models had three times.

    Source: DINOv2 (arXiv:2304.07193) appendix, 1e-3 for distilled models beside 3.5e-4 from scratch.
    """
    rate = settings.lr
    return replace(settings, lr=replace(rate, start=2 * rate.start, peak=2 * rate.peak, end=2 * rate.end))


def _without_anchors(crops: multicrop.Config) -> multicrop.Config:
    sizes = tuple(replace(each, anchor_size=0) for each in crops.sizes)
    return replace(crops, anchor_size=0, sizes=sizes)


def _fitting(crops: multicrop.Config, chosen: students.Config) -> multicrop.Config:
    """Bring sizes to the nearest that every student can look at; a convolution takes any local crop it fits into."""
    networks = list(chosen.students.values())
    coarsest = max(network.patch_size for network in networks)
    all_of, of_transformers = (
        lcm(*(network.patch_size for network in some))
        for some in (networks, [network for network in networks if network.whole_patches])
    )

    def near(side: int, unit: int) -> int:
        return max(round(side / unit), ceil(coarsest / unit)) * unit

    sizes = tuple(
        replace(each, global_size=near(each.global_size, all_of), local_size=near(each.local_size, of_transformers))
        for each in crops.sizes
    )
    found = replace(
        crops,
        global_size=near(crops.global_size, all_of),
        local_size=near(crops.local_size, of_transformers),
        sizes=sizes,
    )
    if found != crops:
        info(f"crops of {found.global_size} and {found.local_size} px, which suit every student's patches")
    return found


def _plain(teacher: Backbone, chosen: students.Config) -> TrainConfig:
    """Return settings for a published backbone: DINOv3's crops and losses, a rate for a batch of 64."""
    side = teacher.pixels.size or 224
    crops = _fitting(multicrop.Config(global_size=side, local_size=round(0.43 * side), local_count=4), chosen)
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
            backbone=chosen.students[chosen.shown],
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
            distil=chosen,
        ),
        runtime=Runtime(),
    )


def _of_channels(found: students.Students, channels: int) -> students.Students:
    """Give the students the channels of their teacher."""
    return students.Students({name: replace(student, channels=channels) for name, student in found.items()})
