"""Opening a run's folder: it holds this experiment, and its newest checkpoint is loaded."""

from contextlib import suppress

from dinokit import config as configuration
from dinokit.checkpoints.store import Clock, RunFolder
from dinokit.core import dist
from dinokit.core.errors import RunError, UserError
from dinokit.core.files import read_jsonl, write_jsonl
from dinokit.core.log import info
from dinokit.run.bad_images import forget_later
from dinokit.run.guard import forget_repeated
from dinokit.sources.source import same_source
from dinokit.training.config import TrainConfig
from dinokit.training.step import Trainer


def check_experiment(run: RunFolder, config: TrainConfig) -> None:
    """Refuse a folder that holds something else than this experiment; a start that failed has left nothing to hold."""
    if not run.path.exists():
        return
    if not run.path.is_dir():
        raise UserError(f"{run.path} is a file; --out takes a folder")
    if not run.config.exists():
        if any(not path.name.startswith(".") for path in run.path.iterdir()):
            raise UserError(f"{run.path} is not empty and holds no run (no config.yaml); choose another --out")
        return
    if not _has_begun(run):
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
    if changed:
        # a group that is there or not prints as nothing beside its own settings
        shown = {key: pair for key, pair in changed.items() if str(pair[0]) != str(pair[1])} or changed
        listed = ", ".join(f"{key} {was} -> {now}" for key, (was, now) in list(shown.items())[:5])
        more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
        raise UserError(
            f"{run.path} holds another experiment: {listed}{more}; "
            f"give these their old values back, go on as it began by dinokit pretrain {run.config} --out {run.path}, "
            "or choose another --out"
        )


def _has_begun(run: RunFolder) -> bool:
    """Tell whether anything was ever saved, be it damaged since."""
    return run.metrics.exists() or any((run.path / "checkpoints").glob("[!.]*"))


def restore(run: RunFolder, trainer: Trainer) -> Clock:
    """Load the newest checkpoint and drop what the log says of later steps; a fresh run stays as it was built."""
    steps = run.steps(with_state=True)
    state, clock = run.load(steps[-1], trainer.layout) if steps else ({}, Clock())
    # before rank 0 writes the first checkpoint, all have looked for one, and have found the same
    found = dist.gather_lists([(clock.step, configuration.to_yaml(trainer.experiment))])
    if len(set(found)) > 1:
        raise RunError(
            f"all ranks must see one run, they found steps {sorted({step for step, _ in found})}; "
            "give all the same --out, on a disk that they share, and the same settings"
        )
    if not steps:
        return clock
    trainer.lr_factor = clock.lr_factor
    trainer.load_state({name: value.to(trainer.device) for name, value in state.items()})
    if dist.is_main():
        run.publish(steps[-1])  # a kill may have come between the checkpoint and its publication
        write_jsonl(run.metrics, (line for line in read_jsonl(run.metrics) if line.get("step", 0) <= steps[-1]))
        forget_later(run.bad_images, steps[-1])
        forget_repeated(run, clock)
    info(f"continuing {run.path} from step {steps[-1]}")
    return clock


def newest(run: RunFolder) -> str:
    steps = run.steps(with_state=True)
    return f"saved is step {steps[-1]}" if steps else "nothing is saved yet"
