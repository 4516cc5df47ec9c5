"""One step of a run once more, to look into: its losses, gradients, crops, and where the first odd number comes from.

The run is only read. Training goes on in memory from the newest kept checkpoint before the step. The step is then taken
from the state that it was taken from, unless the run has gone back over that checkpoint since, its images have changed,
or it had several ranks: one process draws stochastic depth and RoPE augmentation for all of them.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from dinokit.checkpoints.store import Clock, RunFolder
from dinokit.core import device as devices
from dinokit.core.errors import UserError
from dinokit.core.files import read_jsonl
from dinokit.core.log import info, progress, warn
from dinokit.run.feed import feed
from dinokit.run.handover import built, next_stage
from dinokit.sources.source import Source, open_source
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
        UserError: if there is no such step, or no state before it is kept.
    """
    legs = config.experiment.legs()
    if not 1 <= step <= legs[-1].last:
        raise UserError(f"step must be 1 to {legs[-1].last}, got {step}")
    kept = run.steps(with_state=True)
    before = [each for each in kept if each < step]
    if not before:
        raise UserError(
            f"no state before step {step} is kept in {run.path}, but of {', '.join(map(str, kept)) or 'no step'}; "
            "runtime.keep says how many a run keeps"
        )
    start = before[-1]
    wanted = next(leg for leg in legs if step <= leg.last)
    if start < wanted.first:
        raise UserError(
            f"step {step} is of stage {wanted.name}, and {run.path} keeps no state from step {wanted.first} on, "
            "where that begins"
        )
    source = open_source(config.experiment.data.source, channels=config.experiment.backbone.channels, split=None)
    leg = next(leg for leg in legs if start <= leg.last)
    alone = replace(config, runtime=Runtime())
    trainer = built(alone, leg, devices.choose(device))
    state, clock = run.load(start)
    trainer.load_state({name: value.to(trainer.device) for name, value in state.items()})
    if start == leg.last and (following := next_stage(run, alone, leg, trainer, source, note=False)) is not None:
        leg, trainer = following
    experiment = leg.experiment
    noted = [line for line in read_jsonl(run.bad_steps) if line["step"] == step]
    trainer.lr_factor = noted[-1]["lr_factor"] if noted else clock.lr_factor
    ahead = noted[-1]["ahead"] if noted else clock.ahead
    _say_what_differs(run, source, clock, noted)

    loader = feed(replace(config, experiment=experiment), source, trainer)
    accumulate = experiment.data.accumulate
    if start < step - 1:
        info(f"training from step {start} to {step - 1} in memory")
    for earlier in progress(range(start, step - 1), total=step - 1 - start):
        trainer.step([loader.build(earlier + ahead, micro).views for micro in range(accumulate)], step=earlier)
    micro_batches = [loader.build(step - 1 + ahead, micro) for micro in range(accumulate)]
    with _watched(trainer) as seen:
        report = trainer.step([batch.views for batch in micro_batches], step=step - 1)
    return Replay(
        step=step,
        start=start,
        report=report,
        first=seen.first,
        parameters=tuple(seen.parameters),
        crops=tuple(_crops(source, batch, row) for batch in micro_batches for row in range(len(batch.indices))),
    )


def _say_what_differs(run: RunFolder, source: Source, clock: Clock, noted: Sequence[Mapping[str, Any]]) -> None:
    """Warn where the step was not taken from this state, or not with these images."""
    if noted and noted[-1]["rollbacks"] < clock.rollbacks:
        warn("that step was taken before the run went back: the weights are those that it went back to and trained on")
    with suppress(OSError, ValueError, AttributeError):  # absent or damaged: nothing to compare with
        seen = json.loads(run.environment.read_text(encoding="utf-8")).get("source")
        if seen not in (None, source.fingerprint):
            warn(f"{source.name} has other images than at the run's last start, or lists them in another order")


@dataclass
class _Seen:
    first: str
    parameters: list[str]


@contextmanager
def _watched(trainer: Trainer) -> Iterator[_Seen]:
    """Note the first module with an odd output, and parameters with odd gradients, while the body runs."""
    seen = _Seen("", [])
    handles = []
    networks = {"teacher": trainer.backbone.teacher} | trainer.parts
    for part, network in networks.items():
        for name, module in network.named_modules():
            label = f"{part}.{name}" if name else part
            handles.append(module.register_forward_hook(_note_module(seen, label)))
        for name, parameter in network.named_parameters():
            if parameter.requires_grad:
                note = _note_parameter(seen, f"{part}.{name}")
                handles.append(parameter.register_post_accumulate_grad_hook(note))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _note_module(seen: _Seen, label: str) -> Any:
    def note(_module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if not seen.first and not _finite(output):
            whence = "of finite inputs" if _finite(inputs) else "of inputs that are not finite either"
            seen.first = f"{label}, {whence}"

    return note


def _note_parameter(seen: _Seen, label: str) -> Any:
    def note(parameter: Tensor) -> None:
        if label not in seen.parameters and not _finite(parameter.grad):
            seen.parameters.append(label)

    return note


def _finite(value: Any) -> bool:
    if isinstance(value, Tensor):
        return not value.is_floating_point() or bool(value.isfinite().all())
    if isinstance(value, tuple | list):
        return all(map(_finite, value))
    return all(map(_finite, vars(value).values())) if hasattr(value, "patches") else True


def _crops(source: Source, batch: Batch, row: int) -> Crops:
    views = batch.views.on(torch.device("cpu"))
    values = torch.cat([views.global_crops[:, row].flatten(), views.local_crops[:, row].flatten()])
    lowest, highest = values.aminmax()
    odd = int(values.numel() - values.isfinite().sum())
    return Crops(source.key(int(batch.indices[row])), float(lowest), float(values.mean()), float(highest), odd)
