"""One step of a run once more, to look into: its losses, gradients, crops, and where the first odd number comes from.

The run is only read. Training goes on in memory from the newest kept checkpoint before the step. The step is then taken
from the state that it was taken from, unless the run has gone back over that checkpoint since, its images have changed,
or it had several ranks: one process draws stochastic depth and RoPE augmentation for all of them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dinokit.checkpoints.store import RunFolder
from dinokit.core import device as devices
from dinokit.core.files import read_jsonl
from dinokit.core.messages import UserError, info, progress, warn
from dinokit.run.feed import feed
from dinokit.run.handover import next_stage
from dinokit.run.precision import settled
from dinokit.run.setup import Setup
from dinokit.sources.source import Source
from dinokit.training.config import Runtime, TrainConfig
from dinokit.training.step import Report, Trainer
from dinokit.views.loader import Batch


@dataclass(frozen=True)
class Crops:
    """What all crops of an image hold, after normalisation."""

    image: str
    lowest: float
    mean: float
    highest: float
    odd: int  # numbers that are not finite


@dataclass(frozen=True)
class Replay:
    """What a step looks like from within."""

    step: int  # as in metrics.jsonl: 1 is the first
    start: int  # of the checkpoint from which training went on
    report: Report
    first: str  # module whose output was the first that is not finite; empty if there is none
    parameters: tuple[str, ...]  # whose gradients are not finite
    crops: tuple[Crops, ...]


def replay(run: RunFolder, config: TrainConfig, step: int, *, device: str = "auto") -> Replay:
    """Take a step of a run again.

    Args:
        config: of the run.
        step: as in metrics.jsonl and bad_steps.jsonl.

    Raises:
        UserError: if there is no such step, or no whole state before it is kept.
    """
    config = settled(config, run, devices.choose(device))
    stages = config.experiment.all_stages
    if not 1 <= step <= stages[-1].last:
        raise UserError(f"step must be 1 to {stages[-1].last}, got {step}")
    wanted = next(stage for stage in stages if step <= stage.last)
    start = _start(run, step, first=wanted.first)
    experiment = config.experiment
    source = experiment.data.open(channels=experiment.backbone.channels)
    setup = Setup(run, replace(config, runtime=Runtime()), devices.choose(device), source)
    stage = next(stage for stage in stages if start <= stage.last)
    trainer = setup.build_trainer(stage)
    state, clock = run.load(start)
    trainer.load_state({name: value.to(trainer.device) for name, value in state.items()})
    if start == stage.last and (following := next_stage(setup, stage, trainer, note=False)) is not None:
        stage, trainer = following
    noted = [line for line in read_jsonl(run.bad_steps) if line.get("step") == step]
    trainer.lr_factor = noted[-1]["lr_factor"] if noted else clock.lr_factor
    ahead = noted[-1]["ahead"] if noted else clock.ahead
    if noted and noted[-1]["rollbacks"] < clock.rollbacks:
        warn("that step was taken before the run went back: the weights are those that it went back to and trained on")
    if run.started().get("source", source.fingerprint) != source.fingerprint:
        warn(f"{source.name} has other images than at the run's last start, or lists them in another order")

    loader, accumulate = feed(setup, trainer), stage.experiment.data.accumulate
    if start < step - 1:
        info(f"training from step {start} to {step - 1} in memory")
    for earlier in progress(range(start, step - 1), total=step - 1 - start):
        trainer.step([loader.build(earlier + ahead, micro).views for micro in range(accumulate)], step=earlier)
    micro_batches = [loader.build(step - 1 + ahead, micro) for micro in range(accumulate)]
    with _watched(trainer) as (first, parameters):
        report = trainer.step([batch.views for batch in micro_batches], step=step - 1)
    crops = tuple(each for batch in micro_batches for each in _crops(batch, source))
    return Replay(step, start, report, first="".join(first), parameters=tuple(parameters), crops=crops)


def _crops(batch: Batch, source: Source) -> Iterator[Crops]:
    views = batch.views.on(torch.device("cpu"))
    for row, index in enumerate(batch.indices.tolist()):
        values = torch.cat([views.global_crops[:, row].flatten(), views.local_crops[:, row].flatten()])
        odd = int(values.numel() - values.isfinite().sum())
        yield Crops(source.key(index), float(values.min()), float(values.mean()), float(values.max()), odd)


def _start(run: RunFolder, step: int, *, first: int) -> int:
    """Return the newest whole state before a step of the stage that begins with `first`.

    Raises:
        UserError: if none is kept.
    """
    kept = run.steps(with_state=True)
    for found in reversed([each for each in kept if first <= each < step]):
        fault = run.fault(found)
        if not fault:
            return found
        warn(f"the state of step {found} is damaged ({fault}) and passed over")
    listed = ", ".join(map(str, kept)) or "no step"
    raise UserError(
        f"replay takes a step again from a whole state before it, in the same stage, that is from {first} to "
        f"{step - 1}; {run.path} keeps states of {listed}. runtime.keep says how many a run keeps"
    )


@contextmanager
def _watched(trainer: Trainer) -> Iterator[tuple[list[str], list[str]]]:
    """Note the first module with an odd output, and parameters with odd gradients, while the body runs."""
    first, parameters, handles = list[str](), list[str](), []

    def note_output(label: str, _module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if not first and not _finite(output):
            whence = "of finite inputs" if _finite(inputs) else "of inputs that are not finite either"
            first.append(f"{label}, {whence}")

    def note_gradient(label: str, parameter: Tensor) -> None:
        if label not in parameters and not _finite(parameter.grad):
            parameters.append(label)

    for part, network in ({"teacher": trainer.backbone.teacher} | trainer.parts).items():
        for name, module in network.named_modules():
            label = f"{part}.{name}" if name else part
            handles.append(module.register_forward_hook(partial(note_output, label)))
        for name, parameter in network.named_parameters():
            if parameter.requires_grad:
                note = partial(note_gradient, f"{part}.{name}")
                handles.append(parameter.register_post_accumulate_grad_hook(note))
    try:
        yield first, parameters
    finally:
        for handle in handles:
            handle.remove()


def _finite(value: Any) -> bool:
    if isinstance(value, Tensor):
        return not value.is_floating_point() or bool(value.isfinite().all())
    if isinstance(value, tuple | list):
        return all(map(_finite, value))
    return all(map(_finite, vars(value).values())) if hasattr(value, "patches") else True
