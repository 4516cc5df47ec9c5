"""A training from its first step to its report: every saved model is measured and the best one kept."""

import shlex
import shutil
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

from dinokit.checkpoints.load import load
from dinokit.checkpoints.store import MODEL, RunFolder
from dinokit.core import device as devices
from dinokit.core import slurm as srun
from dinokit.core.files import append_jsonl, read_jsonl, write_atomic
from dinokit.core.messages import RunError, UserError, console, info, is_main, slow, warn
from dinokit.dense.extraction import forgotten
from dinokit.evaluation import base as evaluations
from dinokit.planning.plan import foresee
from dinokit.run import engine
from dinokit.run.setup import check_start
from dinokit.sources.source import Source, is_gray, remarks
from dinokit.training.config import TrainConfig, read, with_full_paths, with_settings
from dinokit.visuals.report import write_report

MEASURED = 20_000  # images of each side for the k-NN of a run's checkpoints; `dinokit evaluate` takes all
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
) -> int:
    """Check all that can be known, say what the run takes, open its images, then train; return the exit code.

    Args:
        natural: whether gray images choose a network of one channel, where the normalisation fits any number.
        anyway: start although this machine's memory is too small.
        instead: of the checks and the training; receives the settings.
    """
    config, run = with_full_paths(config), RunFolder(out)
    if natural and run.steps() and run.config.is_file():  # decided when it began
        natural = False
        begun = read(run.config).experiment.backbone.channels
        config = with_settings(config, {"experiment.backbone.channels": begun})
    foreseen: Sequence[str] = ()
    if instead is None:
        check_start(run, config)
        foreseen = foresee(config, anyway=anyway or run.metrics.exists()) if is_main() else ()
    data, experiment = config.experiment.data, config.experiment
    with slow(f"looking for images in {data.source}"):
        images = data.open(channels=experiment.backbone.channels)
    if natural and len(data.pixels.mean) == 1 and is_gray(images):
        config = with_settings(config, {"experiment.backbone.channels": 1})
        images = data.open(channels=1)
    if instead is not None:
        instead(config)
        return 0
    for line in foreseen:
        info(line)
    for name, network in experiment.networks.items() if experiment.distil is not None else ():
        info(f"student {name}: {network.kind} of width {network.dim}, file {name}.safetensors")
    return train_and_report(config, images, run)


def train_and_report(config: TrainConfig, images: Source, run: RunFolder) -> int:
    """Train, measure and report; return the exit code."""
    for remark in () if images.decoded else remarks(images):
        info(f"{images.name}: {remark}")
    if images.classes and not images.decoded:
        info("features are judged by these classes; if they are none: --data.labels false")
    unmeasured = ""
    if not config.runtime.evaluate:
        unmeasured = "not measured (runtime.evaluate is false)"
    elif images.labels is None or len(images.classes) < 2:
        unmeasured = f"no labels in {images.name}: nothing to measure; look at the pictures"
    measure = (lambda step, path: None) if unmeasured else _measure(config, images, run)

    def measure_and_keep_best(step: int, path: Path) -> None:
        measure(step, path)
        keep_best(run)

    try:
        engine.pretrain(config, run.path, images=images, on_checkpoint=measure_and_keep_best)
    except engine.Interrupted as stop:
        info(str(stop))
        return 130
    if not is_main():
        return 0
    page = write_report(run.path)
    info(_headline(run) or unmeasured or "not measured: see the warnings above")
    best, said = best_teacher(run)
    if best is not None and best != max(run.steps()):
        info(f"the best was step {best:,} ({said}): {run.path / BEST}")
    info(f"model {run.model} · report {page}")
    place, data = shlex.quote(str(run.path)), shlex.quote(config.experiment.data.source)
    info(
        f"next: dinokit evaluate knn --model {place} --data {data}\n"
        f"      dinokit embed --model {place} --data {data} --out FOLDER\n"
        f"      to train on: dinokit pretrain RECIPE --data {data} --from {place} --out ANOTHER"
    )
    return 0


def _measure(config: TrainConfig, images: Source, run: RunFolder) -> Callable[[int, Path], None]:
    """Return what measures each saved teacher and adds the result to metrics.jsonl."""
    data = config.experiment.data.source
    name = "knn" if images.domains is None else "retrieval"
    kind = evaluations.find(name).Config
    device = devices.choose(config.runtime.device)
    # ImageNet against itself at every checkpoint would take longer than the training in between
    settings = kind(data=data, limit=MEASURED) if name == "knn" else kind(data=data)

    def measure(step: int, path: Path) -> None:
        done = {line.get("model") for line in read_jsonl(run.metrics) if line.get("step") == step}
        backbone = load(path).to(device)
        # the teacher before the first step is the untrained network
        candidates = ("teacher",) if step else ("random-init", "raw-pixels")
        left = [model for model in candidates if model not in done]
        if step == 0 and left:
            info(f"step 0 · measuring {' and '.join(left)} ({name} of the data), to compare with")
        for model in left:
            try:
                measured = evaluations.raw_pixels(backbone).to(device) if model == "raw-pixels" else backbone
                with forgotten():
                    result = evaluations.measure(name, measured, settings)
            except (UserError, RunError) as error:
                warn(f"step {step} is not measured: {error}")
                return
            append_jsonl(run.metrics, {"step": step, "evaluation": name, "model": model} | result)
        info(f"step {step} · {_headline(run)}")

    return measure


def best_teacher(run: RunFolder) -> tuple[int | None, str]:
    """Return the step of the best teacher, and by what: its measured score, else how many directions it uses.

    A function of the log and of what is kept, so that a run which goes on comes to the same.
    """
    lines, kept = read_jsonl(run.metrics), run.steps()
    scores = {
        line["step"]: (line[name], f"{label} {line[name]:.1f} %")
        for line in lines
        for name, label in (("top1@20", "k-NN"), ("mAP", "mAP"))
        if line.get("model") == "teacher" and line.get("step") in kept and name in line
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


def keep_best(run: RunFolder) -> None:
    """Make the best teacher a file of the run."""
    best, _ = best_teacher(run)
    if best is not None and run.published(BEST) != best:
        with write_atomic(run.path / BEST) as temporary:
            shutil.copyfile(run.checkpoint(best) / MODEL, temporary)


def _headline(run: RunFolder) -> str:
    """Say the newest result and its baselines in one line; nothing if nothing was measured."""
    newest = {line.get("model"): line for line in read_jsonl(run.metrics) if "evaluation" in line}
    if not newest:
        return ""
    is_retrieval = "mAP" in next(iter(newest.values()))
    measure, label = ("mAP", "retrieval mAP") if is_retrieval else ("top1@20", "k-NN (k = 20)")
    order = [model for model in ("teacher", "random-init", "raw-pixels") if model in newest]
    return f"{label}: " + ", ".join(f"{model} {newest[model][measure]:.1f} %" for model in order)
