"""The runtime of a run: settings that change no number of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NewType

from dinokit.config import converter, shortened
from dinokit.core.messages import UserError
from dinokit.core.numbers import at_least, between
from dinokit.training.execution import Recompute

TrackerName = Literal["wandb", "mlflow", "trackio"]
Words = NewType("Words", tuple[str, ...])  # also as one text, by comma
AUTO = Words(("auto",))


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """What is put up with in the data; here and not in the experiment, so that a stopped run can go on with more."""

    max_bad_ratio: float = between(0, 1, 0.05)  # of the images seen, may be bad; above it the run stops


@dataclass(frozen=True, kw_only=True)
class Health:
    """How the health of a run is watched; a look costs about as much as a step and leaves no trace in the run."""

    every: int | None = at_least(0, None)  # steps between looks; null: at log lines, within 2 % of the time; 0: never
    images: int = at_least(2, 256)  # looked at, the same ones each time, over all ranks


@dataclass(frozen=True, kw_only=True)
class Rollback:
    """What happens when loss or gradient stay NaN or infinite: back, with a lower rate and other images."""

    after: int = at_least(1, 10)  # bad ones of the last 100 steps; fewer are skipped and that is all
    factor: float = between(0, 1, 0.5, without=0)  # on the learning rate from there on
    most: int = at_least(0, 3)  # times; then the run stops


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """What is measured of the saved teachers while the run goes on, which leaves no trace in their numbers."""

    tasks: Words = AUTO  # knn,linear,...: by a process beside; auto: k-NN or retrieval, between steps; null: none
    every: int | None = at_least(1, None)  # steps between teachers that are measured, saved for it; null: all saved
    data: Words = Words(())  # SOURCE for all tasks, TASK=SOURCE for one, by comma; null: the training's images
    device: str = "auto"  # of the process beside; auto: the run's, and an eighth of its GPU's memory

    def __post_init__(self) -> None:
        if not self.tasks and (self.every is not None or self.data):
            raise UserError("nothing is measured; name evaluations by eval.tasks, or set eval.every and data to null")
        if "auto" in self.tasks and self.tasks != AUTO:
            raise UserError("auto chooses the evaluation itself; leave it out of eval.tasks, or leave out the others")
        if self.device != "auto" and self.tasks == AUTO:
            raise UserError("eval.device is of a process beside the run; name evaluations by eval.tasks")
        if len(self._shared) > 1:
            raise UserError(
                f"eval.data: expected one SOURCE for all tasks, others as TASK=SOURCE of {', '.join(self.tasks)}; "
                f"got {' and '.join(self._shared)}"
            )

    @property
    def _shared(self) -> list[str]:
        return [word for word in self.data if word.partition("=")[0] not in self.tasks]

    def source(self, task: str) -> str:
        """Return where a task's images are; empty: they are those of the training."""
        own = [word.removeprefix(f"{task}=") for word in self.data if word.startswith(f"{task}=")]
        return next(iter(own + self._shared), "")

    def saves(self, step: int) -> bool:
        """Tell whether the teacher of a step is saved to be measured."""
        return self.every is not None and step % self.every == 0


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Everything that must not change a number of the run, but for rounding and what ranks draw for themselves."""

    device: str = "auto"  # auto: CUDA, else MPS, else CPU
    processes: int | None = at_least(1, None)  # ranks on this machine, at most one per GPU; null: one per GPU, or one
    recompute: Recompute = "none"  # what backward passes compute again to save memory: none, selective, full
    compile: bool = False  # compile the blocks: a few percent for a minute at the start, and again per new size
    sharding: Literal["none", "fsdp"] = "none"  # what a rank holds: everything; or its rows of each tensor (FSDP2)
    groups: bool = False  # of a distillation: every student has ranks of its own, which divide the teacher's work
    distort: Literal["loader", "device"] = "loader"  # where crops get their colours; for a GPU beside few cores
    workers: int | None = at_least(0, None)  # processes that prepare batches, per rank; null: from cores and source
    checkpoint_every: int = at_least(1, 1000)  # steps between checkpoints
    keep: int = at_least(1, 2)  # newest checkpoints that keep the training state; older ones keep the teacher only
    log_every: int = at_least(1, 10)  # steps between lines of metrics.jsonl
    eval: Measuring = field(default_factory=Measuring)  # of the saved teachers
    tensorboard: bool = True  # write events/, where TensorBoard is installed (extra tensorboard)
    trackers: tuple[TrackerName, ...] = ()  # besides: wandb, mlflow, trackio, each an extra of this package
    health: Health = field(default_factory=Health)  # vital signs of the features, measured on a few images
    rollback: Rollback = field(default_factory=Rollback)  # what a run that diverges does
    data: Tolerance = field(default_factory=Tolerance)  # limits that change no number of a run that goes on


def _structure_words(value: Any, _: Any) -> Words:
    words = value.split(",") if isinstance(value, str) else [] if value is None else value
    if not isinstance(words, list | tuple) or not all(isinstance(word, str) and word for word in words):
        raise TypeError(f"expected words by comma, got {shortened(value)}")
    return Words(tuple(dict.fromkeys(words)))


def _structure_runtime(value: Any, kind: Any) -> Runtime:
    if isinstance(value, Mapping) and "evaluate" in value:  # as earlier versions wrote it
        rest = {name: each for name, each in value.items() if name != "evaluate"}
        value = rest if value["evaluate"] is True else {"eval": {"tasks": []}} | rest
    return _runtime_as_written(value, kind)  # type: ignore[no-any-return]


converter.register_structure_hook(Words, _structure_words)
_runtime_as_written = converter.get_structure_hook(Runtime)
converter.register_structure_hook(Runtime, _structure_runtime)
