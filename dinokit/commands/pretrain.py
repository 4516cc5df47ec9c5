"""`dinokit pretrain`: train a backbone on a folder of images, or continue the run"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dinokit import recipes
from dinokit.checkpoints.load import load
from dinokit.checkpoints.store import RunFolder
from dinokit.commands.running import join_srun, train
from dinokit.config import NO_SETTINGS, Settings, to_plain
from dinokit.core.messages import UserError, is_main
from dinokit.models.features import Built
from dinokit.run.ranks import write_job
from dinokit.training.config import TrainConfig, with_settings

EXAMPLE = ("demo",)  # whose settings --help lists where none is named
FIRST = (  # of the settings, in --help
    "steps",
    "data.batch_size",
    "data.accumulate",
    "data.views.global_size",
    "optim.lr.peak",
    "seed",
    "device",
    "workers",
    "checkpoint_every",
    "eval.tasks",
    "eval.every",
    "eval.data",
)


def pretrain(
    recipe: str,
    *,
    data: str = "",
    out: Path,
    from_: str = "",
    stage: str = "",
    slurm: Path | None = None,
    nodes: int = 1,
    gpus_per_node: int = 8,
    anyway: bool = False,
    settings: Settings = NO_SETTINGS,
    **named: Any,
) -> Path:
    """Train a backbone on a folder of images, or continue the run that is in OUT.

    Any setting of the recipe can be changed by its dotted key: --optim.lr.peak 1e-3 --data.batch_size 64.

    Args:
        recipe: a recipe's name (see `dinokit models`) or the config.yaml of another run.
        data: a folder of images, nested as you like; a pattern 'photos/**/*.jpg', a list .txt, a manifest .csv .jsonl
            .parquet, shards .tar, a .zip, hf:NAME, s3:// or https://, a mixture .yaml; or demo:fashion,
            demo:fashion-placed, demo:emoji. The demo recipe trains a network of one channel if the images are gray.
        out: the run's folder; the same command again continues it.
        from_: weights to begin with: another run, RUN/checkpoints/STEP, a model's file or name. With `--backbone auto`
            the network is theirs.
        stage: train this stage of the recipe alone, on the weights of --from; settings are its own: --steps 100.
        slurm: do not train, but write the script of a SLURM job that does; start it by sbatch.
        nodes: of that job.
        gpus_per_node: of that job; each is one rank.
        settings: in Python, settings by dotted key: {"optim.lr.peak": 1e-3}.
        named: in Python, settings without a dot: steps=400.
        anyway: start although this machine's memory is too small by what `dinokit plan` foresees.
    """
    join_srun()
    run = RunFolder(Path(out))
    if run.guard.exists() and is_main():  # the ranks that an adaptation starts say `pretrain` too
        raise UserError(
            f"{run.path} is guarded, and pretrain would publish what its guard has refused; go on with "
            f"{run.begun_by('adapt')}, or choose another --out"
        )
    given = {**settings, **named, **({"experiment.data.source": str(data)} if data else {})}
    recipe, from_ = str(recipe), str(from_)
    weights = str(Path(from_).absolute()) if from_ and Path(from_).exists() else from_
    config = _with_settings(recipes.find(recipe), given, weights=weights, stage=stage)
    if slurm is None and (nodes, gpus_per_node) != (1, 8):
        raise UserError("--nodes and --gpus-per-node describe a job; name its script with --slurm FILE")
    natural = recipe in recipes.names() and not any(key.endswith(("backbone", ".channels")) for key in given)

    def write(config: TrainConfig) -> None:
        chosen = recipe if recipe in recipes.names() else str(Path(recipe).absolute())
        place, source = str(Path(out).absolute()), config.experiment.data.source
        options = {"--data": source, "--out": place, "--from": weights, "--stage": stage}
        words = ["pretrain", chosen, *(word for pair in options.items() if pair[1] for word in pair)]
        write_job(Path(slurm or ""), words, config, {**settings, **named}, nodes=nodes, gpus_per_node=gpus_per_node)

    return train(config, run.path, natural=natural, anyway=anyway, instead=None if slurm is None else write)


def _with_settings(config: TrainConfig, settings: Settings, *, weights: str, stage: str) -> TrainConfig:
    """Change a recipe by dotted keys; of a stage alone they are its own, unless they name `stages`."""
    settings = _with_network_of(weights, settings)
    of_stages = {key: value for key, value in settings.items() if "stages" in key.split(".")[:2]} if stage else {}
    config = with_settings(config, of_stages)
    if weights or stage:
        config = replace(config, experiment=config.experiment.alone(stage, start=weights))
    own = {key: value for key, value in settings.items() if key not in of_stages}
    return with_settings(config, own)


def _with_network_of(weights: str, settings: Settings) -> Settings:
    """Put the network of the weights where the settings ask for it: `--backbone auto`, or null."""
    asking = {
        key for key in settings if key.removeprefix("experiment.") == "backbone" and settings[key] in ("auto", None)
    }
    if not asking:
        return settings
    if not weights:
        raise UserError("--backbone auto takes the network of the weights to begin with; give them with --from")
    network = load(weights)
    if not isinstance(network, Built):
        raise UserError(f"{weights} runs in another library and is not trained; begin with weights that are a file")
    return {key: to_plain(network.config) if key in asking else value for key, value in settings.items()}


def explained(words: Sequence[str]) -> tuple[str, Any]:
    """Return the recipe that help is about and its settings."""
    return words[0], recipes.find(words[0])
