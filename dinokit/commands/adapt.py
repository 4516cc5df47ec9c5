"""`dinokit adapt`: go on pretraining from any backbone, with a guard over what it could do"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from dinokit import recipes
from dinokit.checkpoints.load import load
from dinokit.checkpoints.store import RunFolder, run_and_step
from dinokit.commands import fitting
from dinokit.commands.fitting import Fitting
from dinokit.commands.guarding import Guard, Watched, watched
from dinokit.commands.running import join_srun, train
from dinokit.commands.tables import print_rows
from dinokit.config import NO_SETTINGS, Settings
from dinokit.core import device as devices
from dinokit.core.files import only_owner, write_json
from dinokit.core.messages import UserError, info, is_main
from dinokit.recipes.adapted import adapted
from dinokit.run import engine
from dinokit.sources.source import Source, absolute, open_source
from dinokit.training.config import TrainConfig, read, with_settings
from dinokit.visuals.report import write_report

EXAMPLE = ("adapt-small",)  # whose settings --help lists
FIRST = ("stages.adapt.changes.optim.lr.peak", "data.batch_size", "seed", "device", "workers")


def adapt(
    *,
    from_: str,
    data: str,
    out: Path,
    method: Literal["full", "lora", "last"] = "full",
    retain: str = "",
    allowed: float = 2.0,
    scratch: Path | None = None,
    recipe: str = "",
    heads: int | None = None,
    steps: int | None = None,
    channels: int | None = None,
    anyway: bool = False,
    settings: Settings = NO_SETTINGS,
    **named: Any,
) -> Path:
    """Go on pretraining a backbone on a folder of images, from weights with or without heads.

    First the heads are fitted to the frozen backbone, until their loss settles. Then it learns at a low rate that falls
    towards its input, while the similarities of its patches are held to the original's (Gram). A guard measures the
    original and every saved teacher on images of the folder, and on those to retain: by k-NN if they have classes, else
    by locality. Where one falls too far the run ends. RUN/model.safetensors is then the best teacher, and a table
    compares it with the original. Any setting can be changed by its dotted key, of the second part as
    --stages.adapt.changes.KEY.

    Args:
        from_: a run, RUN/checkpoints/STEP, a weights file, or a name that `dinokit models` lists.
        data: images as `pretrain` takes them.
        out: the run's folder; the same command again continues it.
        method: full; lora: low-rank changes of its matrices, which are merged into what is saved; last: its last third
            of blocks.
        retain: images that it is to go on understanding.
        allowed: points, percent of k-NN and hundredths of locality, that may be lost before the run ends.
        scratch: a run that learnt from the same images alone, for the table.
        recipe: adapt or adapt-small; if not given, by the width of the backbone.
        heads: steps in which the heads learn alone, up to four times as many while their loss falls; if not given,
            the recipe's.
        steps: steps in which the backbone learns; if not given, the recipe's.
        channels: of the images, where they are not the backbone's.
        settings: in Python, settings by dotted key.
        named: in Python, settings without a dot.
        anyway: start although this machine's memory is too small by what `dinokit plan` foresees.
    """
    join_srun()
    idle = [key for key in {**settings, **named} if key.removeprefix("runtime.").startswith("eval.")]
    if idle:
        raise UserError(f"adapt measures what --data and --retain name, by its guard; leave --{idle[0]} out")
    for option, value in {"heads": heads, "steps": steps}.items():
        if value is not None and value < 1:
            raise UserError(f"--{option} must be at least 1, got {value}")
    if allowed < 0:
        raise UserError(f"--allowed is what may be lost, in points; it must be at least 0, got {allowed:g}")
    run = RunFolder(Path(out))
    place = str(Path(from_).absolute()) if Path(from_).exists() else str(from_)
    config = adapted(_begun_with(place, run), recipe=recipe, method=method, channels=channels, steps=steps)
    own: dict[str, Any] = {"experiment.data.source": str(data), "eval.tasks": None}
    own |= {} if heads is None else {"steps": heads}
    config = with_settings(config, {**own, **settings, **named})
    if scratch is not None:
        load(scratch)  # a mistake in it is said before the work, not after
    kept = _opened("retained", absolute(retain), config) if retain else None
    portion = config.experiment.steps
    if not {"log_every", "runtime.log_every"} & {*settings, *named}:
        config = fitting.logged(config)
    config = fitting.begun(run, config)
    follow = partial(_train_guarded, portion=portion, kept=kept, allowed=allowed, scratch=scratch)
    return train(config, run.path, anyway=anyway, follow=follow)


def _begun_with(source: str, out: RunFolder) -> str:
    """Name the step of a run, which may train on; of an adaptation that goes on the one that it has begun with."""
    begun = read(out.config).experiment.start if out.steps() else None
    if begun is not None and Path(begun.source).is_absolute() and not Path(begun.source).exists():
        raise UserError(
            f"{out.path} was begun with {begun.source}, which tells its network and settings and is no longer there; "
            "put it, or a link to it, back in its place"
        )
    folder, step = run_and_step(Path(source))
    if step is not None or not folder.steps():
        return source
    if begun is not None and run_and_step(Path(begun.source))[0] == folder:
        return begun.source
    published = folder.published()  # of an adaptation the best, which is not always the newest
    return str(folder.checkpoint(published)) if published in folder.steps() else source


def _opened(name: str, source: str, config: TrainConfig) -> Watched:
    """Open images to see how they are measured."""
    data = config.experiment.data
    return watched(name, source, open_source(source, channels=config.experiment.backbone.channels, white=data.white))


def _train_guarded(
    config: TrainConfig,
    images: Source,
    run: RunFolder,
    *,
    portion: int,
    kept: Watched | None,
    allowed: float,
    scratch: Path | None,
) -> None:
    """Train under the guard, then publish, compare and report."""
    sets = [watched("folder", config.experiment.data.source, images), *([] if kept is None else [kept])]
    device = devices.choose(config.runtime.device)
    longer: TrainConfig | None = config
    while longer is not None:
        heads = Fitting(run, longer, portion=portion)
        guard = Guard(run, sets, allowed=allowed, first=heads.end, device=device)
        guard.check()
        if guard.ended():  # so all ranks find, before one changes anything
            break
        if is_main() and config.experiment.start is not None:  # what cannot be measured is said before the work
            channels = config.experiment.backbone.channels
            guard.begin(partial(load, config.experiment.start.source, channels=channels))
        engine.pretrain(longer, run.path, images=images, on_checkpoint=partial(_look, heads, guard))
        longer = heads.longer()
    if not is_main():
        return
    with only_owner(run.path, doing="measures the teachers of"):
        run.clear()
        guard.publish("model.safetensors", "best.safetensors")
        info(guard.verdict())
        rows = compared(guard, scratch)
        write_json(run.path / "adapt.json", {"sets": [vars(each) for each in sets], "rows": rows})
    head = ("", *(each.label for each in sets))
    print_rows("adapted", head, [(name, *(f"{row[each.name]:.1f}" for each in sets)) for name, row in rows.items()])
    info(f"model {run.model} · report {write_report(run.path)}")


def _look(heads: Fitting, guard: Guard, step: int, _: Path) -> bool:
    """Tell whether the run is to end at a checkpoint."""
    return heads.look(step) or guard.look(step)


def compared(guard: Guard, scratch: Path | None) -> dict[str, dict[str, float]]:
    """Return what was measured of the original, of the published teacher, and of a run from scratch."""
    lines, best = guard.lines(), guard.best()
    chosen = {"original": lines[0], "adapted": next(line for line in lines if line["step"] == best)}
    wanted = ("step", *(each.name for each in guard.sets))
    rows = {name: {key: line[key] for key in wanted} for name, line in chosen.items()}
    if scratch is not None:
        backbone = load(scratch).to(guard.device)
        rows["from scratch"] = {each.name: each.measure(backbone) for each in guard.sets}
    return rows


def explained(words: Sequence[str]) -> tuple[str, Any]:
    """Return a recipe of adaptation and its settings."""
    return words[0], recipes.find(words[0])
