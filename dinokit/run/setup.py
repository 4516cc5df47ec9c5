"""What a run is made of and how it starts: what is refused, who may write to the folder, what is said and recorded.

What can be known without the images is checked before they are looked for: device, ranks, trackers, the folder and what
it holds, models to begin with.
"""

import errno
import os
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from dinokit import config as configuration
from dinokit.checkpoints.load import weights_file
from dinokit.checkpoints.store import Clock, RunFolder, header, run_and_step
from dinokit.core import device as devices
from dinokit.core import dist
from dinokit.core.files import check_writable, only_owner, write_json
from dinokit.core.messages import RunError, UserError, info, is_main, library, reason, warn
from dinokit.health.probe import Probe, open_probe
from dinokit.models.features import Built
from dinokit.run import ranks
from dinokit.run.precision import agreed, settled
from dinokit.sources.source import Source, same_source
from dinokit.training.config import RunStage, TrainConfig
from dinokit.training.execution import whole
from dinokit.training.step import Trainer
from dinokit.views import quick

WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)  # of a disk, which names no file


@dataclass(frozen=True)
class Setup:
    """One start of a run, as all its parts need to know it."""

    run: RunFolder
    config: TrainConfig
    device: torch.device
    images: Source

    @cached_property
    def stages(self) -> tuple[RunStage, ...]:
        """The stages of the run, each with the whole of its settings."""
        return self.config.experiment.all_stages

    def build_trainer(self, stage: RunStage) -> Trainer:
        """Build what trains in a stage, with initial weights; if sharded, all ranks must call together."""
        runtime, several = self.config.runtime, dist.world_size() > 1
        return Trainer(
            stage.experiment,
            self.device,
            recompute=runtime.recompute,
            compiled=runtime.compile,
            sharded=runtime.sharding == "fsdp" and several,
            teams=runtime.groups and several,
            first=stage.first,
        )

    def probe(self, trainer: Trainer, *, images: int) -> Probe | None:
        """Read the few images by which networks are judged; None if there are fewer than two. All ranks must call."""
        data = trainer.experiment.data
        return open_probe(
            self.images,
            data.pixels,
            side=data.pixels.size or data.views.variants()[0].global_size,
            patch_size=trainer.backbone.student.patch_size,
            images=images,
            seed=trainer.experiment.seed,
        )


def newest(run: RunFolder) -> str:
    """Say what a run that ends now can go on from."""
    steps = run.steps(with_state=True)
    return f"saved is step {steps[-1]}" if steps else "nothing is saved yet"


def save(setup: Setup, trainer: Trainer, clock: Clock) -> None:
    """Write a checkpoint; all ranks must call together."""
    trainer.catch_up()
    if not is_main() and not trainer.sharded:  # all ranks hold the same state
        return
    setup.run.save(
        clock.step,
        state=trainer.state(),
        clock=clock,
        models={
            f"{name}.safetensors": (whole(teacher.state_dict()), _header(teacher, trainer, clock))
            for name, teacher in ((name, each.backbone.teacher) for name, each in trainer.models().items())
        },
        keep=setup.config.runtime.keep,
    )


def _header(teacher: Built, trainer: Trainer, clock: Clock) -> dict[str, str]:
    """Say what a teacher's file says of itself, with the licence of the weights that it began with."""
    return header(teacher.config, trainer.experiment.data.of_model, step=clock.step, licence=teacher.licence)


@contextmanager
def open_run(config: TrainConfig, out: Path, images: Source | None = None) -> Iterator[Setup]:
    """Own a run's folder, with as many ranks as it wants, while the body runs; errors of the system become one line.

    Args:
        images: if they are open already.

    Raises:
        UserError: if the data, the folder or the settings do not fit.
        RunError: if a rank is lost or the system refuses; the message says what was saved.
    """
    run, main = RunFolder(out), is_main()
    world = check_start(run, config)
    config = settled(config, run, devices.choose(config.runtime.device))
    experiment = config.experiment
    if images is None:
        images = experiment.data.open(channels=experiment.backbone.channels)
    with only_owner(run.path, doing="trains in") if main else nullcontext():
        if main:
            run.create(configuration.to_yaml(config))
            for line in run.set_damaged_aside():
                warn(line)
        try:
            with ranks.joined(world, ["pretrain", str(run.config), "--out", str(run.path)]):
                yield Setup(run, agreed(config), devices.choose(config.runtime.device), images)
        except ranks.RankLost as error:
            raise RunError(f"{error}; {newest(run)}; the same command continues") from error
        except OSError as error:
            raise RunError(f"{_refused(error, out)}; {newest(run)}; the same command continues") from error


def _refused(error: OSError, out: Path) -> str:
    """Say what the system refused, and where if it is known."""
    place = error.filename or (out if error.errno in WRITING else None)
    if place is None:
        return reason(error)
    file = Path(os.fsdecode(place)).absolute()
    return f"{f'cannot write to {out}' if file.is_relative_to(out.absolute()) else file}: {reason(error)}"


def check_start(run: RunFolder, config: TrainConfig) -> int:
    """Refuse a start that could not end well, before anything takes long; return the number of ranks.

    Raises:
        UserError: if the device, the ranks, the folder, a tracker or a model to begin with is not as it should be.
    """
    experiment, runtime = config.experiment, config.runtime
    devices.choose(runtime.device)
    world = ranks.count(experiment, runtime)
    if not is_main():
        return world
    check_folder(run, config)
    for name in runtime.trackers:
        library(name, extra=name)
    missing = [folder for folder in (run.path, *run.path.parents) if not folder.exists()]
    check_writable(run.path)
    for folder in missing:
        folder.rmdir()  # a start that fails for want of images leaves nothing
    done = max(run.steps(with_state=True), default=None)
    for stage in experiment.all_stages:
        begun = done is not None and done > stage.first  # then its anchor is in the checkpoint
        if stage.experiment.anchor is not None and stage.experiment.anchor.is_model and not begun:
            weights_file(stage.experiment.anchor.source)
    if experiment.start is not None and done is None:
        other, step = run_and_step(Path(experiment.start.source))
        if step not in (None, *other.steps()) or not other.steps():
            weights_file(experiment.start.source)
    return world


def check_folder(run: RunFolder, config: TrainConfig) -> None:
    """Refuse a folder that holds something else than this experiment; a start that failed has left nothing to hold."""
    if not run.path.exists():
        return
    if not run.path.is_dir():
        raise UserError(f"{run.path} is a file; --out takes a folder")
    if not run.config.exists():
        if any(not path.name.startswith(".") for path in run.path.iterdir()):
            raise UserError(f"{run.path} is not empty and holds no run (no config.yaml); choose another --out")
        return
    learned = run.published()
    if learned and not run.steps():
        raise UserError(
            f"{run.path} has a model of step {learned:,} and no checkpoint to go on from, and training again would "
            f"replace it; use it as it is, begin with it (--from {run.model} --out ANOTHER), or delete {run.path}"
        )
    if not run.metrics.exists() and not any((run.path / "checkpoints").glob("[!.]*")):  # nothing was ever saved
        return
    old = configuration.read_yaml(run.config)
    if not isinstance(old, dict) or "experiment" not in old:
        raise UserError(f"{run.config} is damaged: it has no experiment; restore it or choose another --out")
    with suppress(UserError):  # an early file: settings that came since have their defaults, the others today's names
        old = configuration.to_plain(configuration.from_plain(TrainConfig, old))
    changed = configuration.differences(old["experiment"], config.experiment)
    if config.experiment.distil is not None:  # which does not read it
        changed = {key: pair for key, pair in changed.items() if not key.startswith("backbone")}
    before, now = changed.get("data.source", ("", ""))
    if isinstance(before, str) and same_source(before, now):
        changed.pop("data.source", None)
    if config.experiment.precision == "auto":  # then it goes on as it began
        changed.pop("precision", None)
    if changed:
        # a group that is there or not prints as nothing beside its own settings
        shown = {key: pair for key, pair in changed.items() if str(pair[0]) != str(pair[1])} or changed
        listed = ", ".join(f"{key} {was} -> {now}" for key, (was, now) in list(shown.items())[:5])
        more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
        place, anew = shlex.quote(str(run.path)), "choose another --out"
        command = f"dinokit pretrain {shlex.quote(str(run.config))}"
        begun = f"{command} --out {place}"
        if run.guard.exists():  # which alone knows what is published
            begun = run.begun_by("adapt")
        elif config.experiment.distil is None:
            anew = f"begin another with what it has learned: {command} --from {place} --out ANOTHER"
        raise UserError(
            f"{run.path} holds another experiment: {listed}{more}; give these their old values back, go on as it began "
            f"({begun}), or {anew}"
        )


def check_room(setup: Setup, trainer: Trainer) -> None:
    """Refuse a disk on which the checkpoints that lie there at a time do not fit: those kept, and the next.

    Raises:
        UserError: names the folder, what is wanted and what is free.
    """
    state = trainer.state()
    sizes = [value.numel() * value.element_size() for value in state.values()]
    if not any(name.startswith("optimizer.") for name in state):  # two moments of each weight come with the first step
        learned = (parameter for part in trainer.parts.values() for parameter in part.parameters())
        sizes += [2 * parameter.numel() * parameter.element_size() for parameter in learned]
    there = len(setup.run.steps(with_state=True))
    wanted = sum(sizes) * max(setup.config.runtime.keep + 1 - there, 1)
    free = shutil.disk_usage(setup.run.path).free if is_main() else wanted
    if free < wanted:
        raise UserError(
            f"{setup.run.path} is on a disk with {free / 1e9:.2f} GB free, and the checkpoints that are kept at a time "
            f"take {wanted / 1e9:.2f} GB more; free some, choose another --out, or --runtime.keep 1"
        )


def say_timeline(setup: Setup) -> None:
    """Say what happens when, if there is more than one stage."""
    for stage in setup.stages if len(setup.stages) > 1 else ():
        experiment = stage.experiment
        origin = {None: "random weights", "continue": "goes on", "teacher": "from the teacher"}[stage.begin]
        if stage.begin is None and experiment.start is not None:
            origin = f"from {experiment.start.source}"
        sides = [
            (views.global_size, views.local_size if views.local_count else 0, views.anchor_size)
            for views in experiment.data.views.variants()
        ]
        sizes = ", ".join("/".join(str(side) for side in each if side) for each in sides)
        info(
            f"steps {stage.first:,} to {stage.last:,} · {stage.name}: {origin} · crops {sizes} px · "
            f"batch {experiment.data.batch_size} · {', '.join(experiment.objectives)}"
        )


def say_what_runs(setup: Setup, trainer: Trainer, clock: Clock, stage: RunStage) -> None:
    """Say what goes on, and in a line what trains on what, and where."""
    if clock.step:
        info(f"continuing {setup.run.path} from step {clock.step}")
    experiment, runtime = stage.experiment, setup.config.runtime
    weights = sum(parameter.numel() for parameter in trainer.backbone.student.parameters())
    _warn_of_other_lengths(stage)
    if runtime.sharding != "none" and not trainer.sharded:
        warn("runtime.sharding has no effect in a single process: it holds everything")
    if runtime.groups and trainer.team is None:
        warn("runtime.groups has no effect in a single process: it trains all students")
    info(
        f"{experiment.recipe}: {weights / 1e6:.2f} M weights · {len(setup.images):,} images of {setup.images.name} · "
        f"batch {experiment.data.batch_size} · steps {clock.step} to {stage.last} · "
        f"{trainer.device} {trainer.precision}{ranks.described(runtime)}"
        f"{', sharded' if trainer.sharded else ''}"
        f"{f' in {trainer.team.count} groups' if trainer.team is not None else ''}"
    )


def _warn_of_other_lengths(stage: RunStage) -> None:
    """Say which schedules do not end with the run: the counts of steps that were given do not add up to it."""
    experiment = stage.experiment
    of_optim = {"optim.lr": experiment.optim.lr, "optim.weight_decay": experiment.optim.weight_decay}
    for name, schedule in (of_optim | {"momentum": experiment.momentum}).items():
        falls = schedule.shape != "constant" and schedule.end <= schedule.peak
        if falls and schedule.length != experiment.steps:
            where = "the run" if stage.begin is None else f"stage {stage.name}"
            takes = f"{name} takes {schedule.length} steps (freeze, warmup, hold and decay)"
            warn(f"{takes}, {where} has {experiment.steps}")


def record_start(setup: Setup) -> None:
    """Write environment.json, earlier starts included; warn of other images than at the last one, and of slow bf16."""
    run, images = setup.run, setup.images
    now: dict[str, Any] = {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "device": str(setup.device),
        "processor": devices.processor(),
        "cores": devices.cores(),
        "ranks": dist.world_size(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "numpy", "pillow")},
        "numba": version("numba") if quick.usable() else None,  # without it torch makes the views
        "images": len(images),
        "source": images.fingerprint,
    }
    before = run.started()
    starts = [*before.pop("earlier", []), before] if before else []
    if before.get("source", now["source"]) != now["source"]:
        warn(
            f"{images.name} has other images than at the last start ({before.get('images')} then, {now['images']} "
            "now), or lists them in another order; the run continues with these, in an order of their own"
        )
    if setup.config.experiment.precision == "bf16" and not devices.has_bf16(setup.device):
        warn(f"precision bf16 may be slow here: no instructions for it are known of {setup.device}")
    write_json(run.environment, now | {"earlier": starts})
