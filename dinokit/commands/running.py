"""A training from its first step to its report: every saved model is measured, the report is written at the end."""

from collections.abc import Callable
from pathlib import Path

from dinokit.checkpoints.load import load
from dinokit.checkpoints.store import RunFolder
from dinokit.core import device as devices
from dinokit.core import dist
from dinokit.core.errors import RunError, UserError
from dinokit.core.files import append_jsonl, read_jsonl
from dinokit.core.log import info, warn
from dinokit.evaluation import base as evaluations
from dinokit.models.features import Backbone
from dinokit.run.engine import Interrupted
from dinokit.run.engine import pretrain as train
from dinokit.sources.source import Source, remarks
from dinokit.training.config import TrainConfig
from dinokit.visuals.report import write_report

MEASURED = 20_000  # images of each side for the k-NN of a run's checkpoints; `dinokit evaluate` takes all


def trained(config: TrainConfig, source: Source, run: RunFolder) -> int:
    """Train, measure and report; return the exit code."""
    unmeasured = _why_unmeasured(config, source)
    for remark in () if source.decoded else remarks(source):
        info(f"{source.name}: {remark}")
    try:
        train(config, run.path, on_checkpoint=_nothing if unmeasured else _measure(config, source, run))
    except Interrupted as stop:
        info(str(stop))
        return 130
    if not dist.is_main():
        return 0
    page = write_report(run.path)
    info(_headline(run) or unmeasured or "not measured: see the warnings above")
    info(f"model {run.model} · report {page}")
    return 0


def _nothing(step: int, path: Path) -> None:
    """Do nothing at a checkpoint."""


def _why_unmeasured(config: TrainConfig, source: Source) -> str:
    """Say why the checkpoints of a run are not measured; nothing if they are."""
    if not config.runtime.evaluate:
        return "not measured (runtime.evaluate is false)"
    if source.labels is None or len(source.classes) < 2:
        return f"no labels in {source.name}: nothing to measure; look at the pictures"
    return ""


def _measure(config: TrainConfig, source: Source, run: RunFolder) -> Callable[[int, Path], None]:
    """Return what measures each saved teacher and adds the result to metrics.jsonl."""
    data = config.experiment.data.source
    task = evaluations.find("knn" if source.domains is None else "retrieval")
    name = task.__name__.rsplit(".", 1)[1]

    device = devices.choose(config.runtime.device)
    # ImageNet against itself at every checkpoint would take longer than the training in between
    settings = task.Config(data=data, limit=MEASURED) if name == "knn" else task.Config(data=data)

    def measure(step: int, path: Path) -> None:
        done = {line.get("model") for line in read_jsonl(run.metrics) if line.get("step") == step}
        backbone = load(path).to(device)
        candidates: dict[str, Backbone] = {"teacher": backbone}
        if step == 0:  # the teacher before the first step is the untrained network
            candidates = {"random-init": backbone, "raw-pixels": evaluations.raw_pixels(backbone)}
        for model in candidates.keys() - done:
            try:
                result = task.run(candidates[model].to(device), settings)
            except (UserError, RunError) as error:
                warn(f"step {step} is not measured: {error}")
                return
            append_jsonl(run.metrics, {"step": step, "evaluation": name, "model": model} | result)
        info(f"step {step} · {_headline(run)}")

    return measure


def _headline(run: RunFolder) -> str:
    """Say the newest result and its baselines in one line; nothing if nothing was measured."""
    newest = {line.get("model"): line for line in read_jsonl(run.metrics) if "evaluation" in line}
    if not newest:
        return ""
    is_retrieval = "mAP" in next(iter(newest.values()))
    measure, label = ("mAP", "retrieval mAP") if is_retrieval else ("top1@20", "k-NN (k = 20)")
    order = [model for model in ("teacher", "random-init", "raw-pixels") if model in newest]
    return f"{label}: " + ", ".join(f"{model} {newest[model][measure]:.1f} %" for model in order)
