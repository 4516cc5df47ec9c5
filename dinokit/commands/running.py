"""A training from its first step to its report: every saved model is measured and the best one kept."""

import shlex
import shutil
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

from dinokit.checkpoints.store import MODEL, RunFolder
from dinokit.commands.beside import Beside
from dinokit.commands.measuring import Asked, asked, check_tasks, headline, measure_here
from dinokit.core import device as devices
from dinokit.core import slurm as srun
from dinokit.core.files import only_owner, read_jsonl, write_atomic
from dinokit.core.messages import console, info, is_main, slow
from dinokit.planning.plan import foresee
from dinokit.run import engine, ranks
from dinokit.run.precision import settled
from dinokit.run.setup import check_start
from dinokit.sources.source import Source, is_gray, remarks
from dinokit.training.config import TrainConfig, read, with_full_paths, with_settings
from dinokit.visuals.record import measurements
from dinokit.visuals.report import write_report

BEST = "best.safetensors"  # beside model.safetensors, which is the newest
RANK = "health/rank_cls"  # RankMe (arXiv:2210.02885) chooses among checkpoints without labels


def join_srun() -> None:
    """Be the rank that srun has started this process as, if it has; rank 0 alone talks from here on."""
    srun.adopt()
    console.quiet = not is_main()  # known only now


def train(
    config: TrainConfig,
    out: Path,
    *,
    natural: bool = False,
    anyway: bool = False,
    instead: Callable[[TrainConfig], None] | None = None,
    follow: Callable[[TrainConfig, Source, RunFolder], None] | None = None,
) -> Path:
    """Check all that can be known, say what the run takes, open its images, then train; return the run's folder.

    Args:
        natural: whether gray images choose a network of one channel, where the normalisation fits any number.
        anyway: start although this machine's memory is too small.
        instead: of the checks and the training; receives the settings.
        follow: what trains and reports once all is checked; None: `train_and_report`.
    """
    config, run = with_full_paths(config), RunFolder(out)
    if natural and run.steps() and run.config.is_file():  # decided when it began
        natural = False
        begun = read(run.config).experiment.backbone.channels
        config = with_settings(config, {"experiment.backbone.channels": begun})
    check_tasks(config, run)
    if instead is not None:
        instead(_opened(config, natural=natural)[0])
        return out
    with ranks.prepared(check_start(run, config), config.runtime.device):
        foreseen: Sequence[str] = ()
        if is_main():  # "auto" is what the run began with
            agreed = settled(config, run, devices.choose(config.runtime.device))
            foreseen = foresee(agreed, anyway=anyway or run.metrics.exists())
        config, images = _opened(config, natural=natural)
        for line in foreseen:
            info(line)
        experiment = config.experiment
        for name, network in experiment.networks.items() if experiment.distil is not None else ():
            info(f"student {name}: {network.kind} of width {network.dim}, file {name}.safetensors")
        (follow or train_and_report)(config, images, run)
    return out


def _opened(config: TrainConfig, *, natural: bool) -> tuple[TrainConfig, Source]:
    """Open the images of a run; gray ones may choose a network of one channel."""
    data = config.experiment.data
    with slow(f"looking for images in {data.source}"):
        images = data.open(channels=config.experiment.backbone.channels)
    if natural and len(data.pixels.mean) == 1 and is_gray(images):
        config = with_settings(config, {"experiment.backbone.channels": 1})
        images = data.open(channels=1)
    return config, images


def train_and_report(config: TrainConfig, images: Source, run: RunFolder) -> None:
    """Train, measure and report.

    Raises:
        Interrupted: if somebody asked to stop; all is saved.
    """
    for remark in () if images.decoded else remarks(images):
        info(f"{images.name}: {remark}")
    wanted = asked(config, images)
    judges = not wanted.evaluations or any(not source for _, source in wanted.evaluations)
    if images.classes and not images.decoded and judges:
        info("features are judged by these classes; if they are none: --data.labels false")
    device, last = devices.choose(config.runtime.device), config.experiment.all_stages[-1].last
    own = config.runtime.eval.device
    every = config.runtime.eval.every or 1

    def due(step: int) -> bool:
        return step % every == 0 or step == last

    beside = Beside(run, wanted, device=str(device) if own == "auto" else own, due=due)

    def measure_and_keep_best(step: int, _: Path) -> None:
        if wanted.beside:
            beside.start()
        elif wanted.evaluations and due(step):
            measure_here(run, step, wanted.tasks(step), device)
        keep_best(run, wanted.first)

    try:
        engine.pretrain(config, run.path, images=images, on_checkpoint=measure_and_keep_best, on_step=beside.look)
        if not is_main():
            return
        with only_owner(run.path, doing="measures the teachers of"):
            complete = not wanted.beside or beside.finish()
            keep_best(run, wanted.first)
    finally:
        beside.leave()
    _say_results(config, wanted, run)
    if not complete:
        raise engine.Interrupted("trained, not all is measured; the same command measures the rest")


def _say_results(config: TrainConfig, wanted: Asked, run: RunFolder) -> None:
    """Write the report, and say what was found, where it lies and what may follow."""
    page, lines = write_report(run.path), read_jsonl(run.metrics)
    found = [headline(lines, task) for task in wanted.tasks(1)]
    info("\n".join(filter(None, found)) or wanted.why_not or "not measured: see the warnings above")
    best, said = best_teacher(run, wanted.first)
    if best is not None and best != max(run.steps()):
        info(f"the best was step {best:,} ({said}): {run.path / BEST}")
    info(f"model {run.model} · report {page}")
    place, data = shlex.quote(str(run.path)), shlex.quote(config.experiment.data.source)
    info(
        f"next: dinokit evaluate knn --model {place} --data {data}\n"
        f"      dinokit embed --model {place} --data {data} --out FOLDER\n"
        f"      to train on: dinokit pretrain RECIPE --data {data} --from {place} --out ANOTHER"
    )


def best_teacher(run: RunFolder, evaluation: str = "") -> tuple[int | None, str]:
    """Return the step of the best teacher, and by what: its measured score, else how many directions it uses.

    A function of the log and of what is kept, so that a run which goes on comes to the same.

    Args:
        evaluation: that decides; empty, or not measured: the first one there is.
    """
    lines, kept = read_jsonl(run.metrics), run.steps()
    results = measurements(line for line in lines if "evaluation" in line)
    scores: dict[int, tuple[float, str]] = {}
    for result in sorted(results, key=lambda one: one.evaluation != evaluation)[:1]:
        label = {"knn": "k-NN", "retrieval": "mAP"}.get(result.evaluation, f"{result.evaluation} {result.metric}")
        scores = {
            step: (value if result.rises else -value, f"{label} {result.written(value)}")
            for step, value in zip(result.steps, result.values, strict=True)
            if step in kept
        }
    if not scores:
        looks = [line for line in lines if RANK in line]
        for before, step in pairwise(kept):
            seen = [line[RANK] for line in looks if before < line["step"] <= step]
            if seen:
                scores[step] = (seen[-1], f"effective rank {seen[-1]:.1f}")
    if not scores:
        return None, ""
    best = max(scores, key=lambda step: (scores[step][0], step))
    return best, scores[best][1]


def keep_best(run: RunFolder, evaluation: str = "") -> None:
    """Make the best teacher a file of the run."""
    best, _ = best_teacher(run, evaluation)
    if best is not None and run.published(BEST) != best:
        with write_atomic(run.path / BEST) as temporary:
            shutil.copyfile(run.checkpoint(best) / MODEL, temporary)
