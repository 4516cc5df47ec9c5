"""`dinokit distill`: train small students on what a frozen teacher says"""

from pathlib import Path
from typing import Any

from dinokit.checkpoints.store import RunFolder, run_and_step
from dinokit.commands.running import join_srun, train
from dinokit.config import NO_SETTINGS, Settings
from dinokit.recipes.distilled import distilled
from dinokit.training.config import read, with_settings


def distill(
    *, teacher: str, students: str, data: str = "", out: Path, settings: Settings = NO_SETTINGS, **named: Any
) -> Path:
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
    join_srun()
    place = str(Path(teacher).absolute()) if Path(teacher).exists() else str(teacher)
    given = {**settings, **named, **({"experiment.data.source": str(data)} if data else {})}
    return train(with_settings(distilled(_begun_with(place, RunFolder(Path(out))), students), given), Path(out))


def _begun_with(teacher: str, out: RunFolder) -> str:
    """Return the teacher; if it is a run, which may have trained on since, the step of it that OUT has begun with."""
    folder, step = run_and_step(Path(teacher))
    if step is not None or not out.steps():
        return teacher
    begun = read(out.config).experiment.distil
    return begun.teacher if begun is not None and run_and_step(Path(begun.teacher))[0] == folder else teacher
