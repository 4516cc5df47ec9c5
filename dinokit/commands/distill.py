"""`dinokit distill`: train small students on what a frozen teacher says"""

from pathlib import Path
from typing import Any

from dinokit import config as configuration
from dinokit import recipes
from dinokit.checkpoints.store import RunFolder, run_and_step
from dinokit.commands.running import train_and_report
from dinokit.config import NO_SETTINGS, Settings
from dinokit.core import slurm as srun
from dinokit.core.messages import UserError, console, info, is_main, slow
from dinokit.planning.plan import foresee
from dinokit.recipes.distilled import distilled
from dinokit.run.opening import check_start
from dinokit.sources.source import absolute
from dinokit.training.config import HALVES, with_settings


def distill(
    *,
    teacher: str,
    students: str,
    data: str = "",
    out: Path,
    settings: Settings = NO_SETTINGS,
    **named: Any,
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
        settings: in Python, settings by dotted key.
        named: in Python, settings without a dot.
    """
    srun.adopt()
    console.quiet = not is_main()  # known only now
    place = str(Path(teacher).absolute()) if Path(teacher).exists() else teacher
    config = with_settings(distilled(_begun_with(place, RunFolder(Path(out))), students), {**settings, **named})
    source_of = absolute(data or config.experiment.data.source)
    if not source_of:
        raise UserError("no images are given; add --data FOLDER")
    config = configuration.override(config, {"experiment.data.source": source_of}, hidden=HALVES)
    run = RunFolder(Path(out))
    check_start(run, config)
    foreseen = foresee(config, anyway=False) if is_main() else ()
    with slow(f"looking for images in {source_of}"):
        images = config.experiment.data.open(channels=config.experiment.backbone.channels)
    for line in foreseen:
        info(line)
    for name, student in config.experiment.distil.students.items() if config.experiment.distil else ():
        info(f"student {name}: {student.kind} of width {student.dim}, file {name}.safetensors")
    return train_and_report(config, images, run)


def _begun_with(teacher: str, out: RunFolder) -> str:
    """Return the teacher; if it is a run, which may have trained on since, the step of it that OUT has begun with."""
    folder, step = run_and_step(Path(teacher))
    if step is not None or not out.steps():
        return teacher
    begun = recipes.find(str(out.config)).experiment.distil
    return begun.teacher if begun is not None and run_and_step(Path(begun.teacher))[0] == folder else teacher
