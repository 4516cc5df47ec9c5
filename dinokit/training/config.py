"""The whole of a run's settings: the experiment, which may change numbers, and the runtime, which must not."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import GenericAlias
from typing import Any, Literal, NewType

from dinokit.config import assigned, converter, current, differences, flat, from_plain, read_yaml, shortened, to_plain
from dinokit.core.device import Precision
from dinokit.core.messages import UserError, unknown_name
from dinokit.core.numbers import Schedule, above, at_least, between
from dinokit.images.intensity import Pixels
from dinokit.models.architecture import Architecture
from dinokit.models.vit import Config as VitConfig
from dinokit.objectives import base as objectives
from dinokit.sources.source import Source, absolute, open_source
from dinokit.training import optim
from dinokit.training.course import FIRST, RETIRED, Anchor, Begin, Distillation, Place, Stages, Start, changed
from dinokit.training.execution import Recompute
from dinokit.views import masking, multicrop

ALONE = ""  # name of the network of a pretraining, which has no others beside it
DRAWN = ("drop_path", "drop_path_shape", "rope.shift", "rope.jitter", "rope.rescale")  # of a backbone, no weights
TrackerName = Literal["wandb", "mlflow", "trackio"]
ObjectiveConfigs = NewType("ObjectiveConfigs", dict[str, Any])  # file name in objectives/ -> its Config
Words = NewType("Words", tuple[str, ...])  # also as one text, by comma
AUTO = Words(("auto",))


@dataclass(frozen=True, kw_only=True)
class Data:
    """What the student and its teacher see."""

    views: multicrop.Config  # crops and their photometric changes
    masks: masking.Config | None  # which patches of the student's global crops are hidden, if an objective asks
    batch_size: int = at_least(1)  # images per optimiser step, over all ranks and micro-batches
    pixels: Pixels = field(default_factory=Pixels)  # normalisation; and the side at which the model will see images
    min_side: int = at_least(1, 8)  # pixels; an image with a shorter side counts as bad and is replaced
    source: str = ""  # of the images: a folder, demo:NAME, ...; what --data gives
    accumulate: int = at_least(1, 1)  # micro-batches per step; each has its own Sinkhorn and KoLeo
    white: float | None = above(0, None)  # what is 1.0 in files of more than 8 bits; null: the largest of integers
    labels: bool = True  # folders, or a column, are classes, by which features are judged; false: they are not

    def __post_init__(self) -> None:
        if self.batch_size % self.accumulate:
            raise UserError(f"batch_size must be a multiple of accumulate, got {self.batch_size} and {self.accumulate}")
        if self.pixels.white is not None:
            raise UserError(
                f"data.pixels.white is what a model remembers of data.white; set data.white {self.pixels.white:g}"
            )

    @property
    def of_model(self) -> Pixels:
        """What a model that learns from these images remembers of them."""
        return replace(self.pixels, white=self.white)

    def open(self, *, channels: int = 3) -> Source:
        """Open the images."""
        return open_source(self.source, channels=channels, labels=self.labels, white=self.white)


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything that may change a number of the run."""

    recipe: str  # the name this started from
    steps: int = at_least(1)  # optimiser steps
    data: Data
    backbone: Architecture  # of any kind, or the name of an architecture that `dinokit models` lists
    objectives: ObjectiveConfigs  # dino, ibot, koleo, ...: every file of dinokit/objectives
    optim: optim.Config
    momentum: Schedule = between(0, 1)  # of the teacher's exponential moving average, per step
    anchor: Anchor | None = None  # the earlier network that objective gram looks at
    seed: int = at_least(0, 0)  # of everything that is drawn
    precision: Precision = "auto"  # of the matrix products; auto: what is faster here, and the run keeps to it
    start: Start | None = None  # weights to begin with; null: random ones
    distil: Distillation | None = None  # a frozen teacher and its students, instead of `backbone` and its average
    stages: Stages = field(default_factory=lambda: Stages({}))  # what follows after `steps`, by name and in order

    def __post_init__(self) -> None:
        if not self.objectives:
            raise UserError(f"no objective is set; add one of {', '.join(objectives.names())}")
        for name, config in self.objectives.items():
            if not isinstance(config, objectives.find(name).Config):
                raise UserError(f"objectives.{name}: expected {name}'s Config, got {type(config).__name__}")
            wants_masks = "masks" in objectives.find(name).Objective.needed(config) and self.distil is None
            if wants_masks and self.data.masks is None:
                raise UserError(f"objective '{name}' needs masks, but data.masks is null; set data.masks.probability")
            if wants_masks and not self.backbone.mask_token:
                kind = self.backbone.kind
                way = "backbone.mask_token to true" if self.backbone.whole_patches else f"objectives.{name} to null"
                raise UserError(f"objective '{name}' needs a mask token, and this {kind} has none; set {way}")
            config.check_batch(self.data.batch_size // self.data.accumulate)
        if self.distil is None:
            multicrop.check_sizes(self.data.views, patch_size=self.backbone.patch_size)
        else:
            self._check_distillation(self.distil)
        self.data.pixels.check_channels(self.backbone.channels)
        self._check_anchor()
        _ = self.all_stages  # a mistake in a stage is said before the first

    @property
    def networks(self) -> dict[str, Architecture]:
        """What learns, by name: the students, or the backbone alone."""
        return {ALONE: self.backbone} if self.distil is None else dict(self.distil.students)

    @property
    def width(self) -> int | None:
        """The width of the widest network that computes; None beside a frozen teacher, whose is known when it is read.

        Published ones have 192 and more.
        """
        return self.backbone.dim if self.distil is None else None

    @cached_property
    def all_stages(self) -> "tuple[RunStage, ...]":
        """The stages, each with the whole of its settings, the pretraining before them included."""
        alone = replace(self, stages=Stages({})) if self.stages else self
        found = [RunStage(FIRST, alone, first=0, begin=None)]
        for name, stage in self.stages.items():
            before = found[-1]
            plain = changed(to_plain(before.experiment), to_plain(stage.changes))
            try:
                experiment = from_plain(Experiment, plain | {"steps": stage.steps, "start": None, "stages": {}})
                _check_same_weights(before.experiment, experiment)
            except UserError as error:
                raise UserError(f"stages.{name}: {error}") from error
            anchor = experiment.anchor
            if anchor is not None and anchor.source.isdecimal() and int(anchor.source) > before.last:
                raise UserError(
                    f"stages.{name}: anchor.source {anchor.source} is a step after the stage begins; "
                    f"give one up to {before.last}"
                )
            found.append(RunStage(name, experiment, first=before.last, begin=stage.begin))
        return tuple(found)

    def candidates(self) -> frozenset[int]:
        """Return the steps whose teachers a run keeps, since the anchor of a later stage may be one of them."""
        anchored = [(stage.experiment.anchor, stage.first) for stage in self.all_stages]
        return frozenset(step for anchor, first in anchored if anchor is not None for step in anchor.steps(first))

    def alone(self, stage: str, *, start: str) -> "Experiment":
        """Return the experiment on other weights than random ones, or one stage of it.

        Args:
            stage: its name; empty: all of them.
            start: what the weights are of; empty: random, which only the first stage may begin with.
        """
        by_name = {each.name: each for each in self.all_stages}
        if stage and stage not in by_name:
            raise unknown_name("stage", stage, by_name)
        chosen = by_name[stage or FIRST]
        if chosen.begin is not None and not start:
            raise UserError(f"stage {stage} begins with the weights of the stage before it; give them with --from")
        begin = Start(source=start, begin=chosen.begin or "teacher") if start else None
        return replace(chosen.experiment if stage else self, start=begin)

    def _check_distillation(self, distil: Distillation) -> None:
        distil.check_crops(self.data.views)
        for name in ("anchor", "start", "stages"):
            if getattr(self, name):
                raise UserError(f"a distillation has no {name}; set it to null")
        for name, config in self.objectives.items():
            if config.for_students() is None:
                raise UserError(f"students of a frozen teacher cannot learn by {name}; set objectives.{name} to null")

    def _check_anchor(self) -> None:
        needs = {name: objectives.find(name).Objective.needed(config) for name, config in self.objectives.items()}
        wanted = next((name for name, fields in needs.items() if "anchor_global" in fields), "")
        size = self.data.views.variants()[0].anchor_size
        if wanted and self.anchor is None:
            raise UserError(f"objective '{wanted}' needs an anchor; set anchor.source to start, teacher or a path")
        if self.anchor is not None and not wanted:
            raise UserError("an anchor is set, but no objective looks at it; set anchor to null, or objectives.gram")
        own_crops = self.anchor is not None and self.anchor.apart
        if own_crops and not size:
            side = self.data.views.variants()[0].global_size
            raise UserError(f"the anchor needs crops of its own; set data.views.anchor_size to {side} or {2 * side}")
        if size and not own_crops:
            raise UserError(f"nobody looks at the crops of data.views.anchor_size {size}; set it to 0")


@dataclass(frozen=True)
class RunStage:
    """A stage as it runs: steps `first` to `last` of the run."""

    name: str
    experiment: Experiment  # without stages; its schedules count from `first`
    first: int  # steps done when it begins
    begin: Begin | None  # null: nothing comes before it

    @cached_property
    def last(self) -> int:
        """Steps done when it is over."""
        return self.first + self.experiment.steps


def _check_same_weights(before: Experiment, now: Experiment) -> None:
    """Refuse a stage whose networks cannot take over the weights of the stage before."""
    for name, (was, found) in differences(before.backbone, now.backbone).items():
        if name not in DRAWN:
            raise UserError(f"backbone.{name} cannot change from {was} to {found}: the weights go on; leave it out")
    for name in before.objectives.keys() & now.objectives.keys():
        heads = [getattr(each.objectives[name], "head", None) for each in (before, now)]
        if heads[0] != heads[1]:
            raise UserError(f"objectives.{name}.head cannot change: its weights go on; leave it out")


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
    tensorboard: bool = True  # write events/
    trackers: tuple[TrackerName, ...] = ()  # besides: wandb, mlflow, trackio, each an extra of this package
    health: Health = field(default_factory=Health)  # vital signs of the features, measured on a few images
    rollback: Rollback = field(default_factory=Rollback)  # what a run that diverges does
    data: Tolerance = field(default_factory=Tolerance)  # limits that change no number of a run that goes on


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A run, whole."""

    experiment: Experiment
    runtime: Runtime = field(default_factory=Runtime)

    def __post_init__(self) -> None:
        if self.runtime.groups and self.experiment.distil is None:
            raise UserError("runtime.groups is for the students of a distillation; set it to false")
        if self.runtime.sharding != "none" and self.experiment.distil is not None:
            raise UserError("a distillation is not sharded; set runtime.sharding to none")
        for network in self.experiment.networks.values():
            if self.runtime.sharding != "none" and not isinstance(network, VitConfig):
                raise UserError(f"runtime.sharding is for transformers, not a {network.kind}; set it to none")
            if self.runtime.recompute != "none" and network.batch_norm:
                raise UserError(f"a {network.kind} would count images twice; set runtime.recompute to none")


HALVES: tuple[Literal["experiment"], Literal["runtime"]] = ("experiment", "runtime")  # left out of a dotted key
PARTS = ("freeze", "warmup", "hold", "decay")  # of a schedule, in steps
COUNTS = ("freeze_last_layer", "first", "every")  # other settings in steps, of optim and anchor


def read(path: Path) -> TrainConfig:
    """Read a config.yaml.

    Raises:
        UserError: if it is missing or does not fit.
    """
    try:
        return from_plain(TrainConfig, read_yaml(path))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def with_settings(config: TrainConfig, settings: Mapping[str, Any]) -> TrainConfig:
    """Change settings by dotted keys; where `steps` changes, what counts in steps keeps its share of the run.

    So `--steps 400` makes a whole, shorter run of a recipe, and `--stages.NAME.steps 100` a whole, shorter stage.
    Parts of a schedule that are given themselves stay as they are given, and its others share what they leave.
    """
    plain = to_plain(config)
    experiment, given = plain["experiment"], {key.removeprefix("experiment."): each for key, each in settings.items()}
    stages = experiment.pop("stages")
    times = _stretch(experiment, experiment["steps"], given, steps="steps")
    for name, stage in stages.items():
        own, changes = f"stages.{name}", stage["changes"]
        _stretch(changes, stage["steps"], given, steps=f"{own}.steps", path=f"{own}.changes.")
        source = str((changes.get("anchor") or {}).get("source"))
        if source.isdecimal():  # a step of the run
            changes["anchor"]["source"] = str(round(times * int(source)))
    experiment["stages"] = stages
    return from_plain(TrainConfig, assigned(plain, settings, hidden=HALVES))


def with_full_paths(config: TrainConfig) -> TrainConfig:
    """Name images and anchors from the root: the run and its report are looked at from other folders too.

    Raises:
        UserError: if no images are given.
    """
    if not config.experiment.data.source:
        raise UserError("no images are given; add --data FOLDER or --data demo:fashion")
    places: dict[str, Any] = {"experiment.data.source": absolute(config.experiment.data.source)}
    measuring = config.runtime.eval
    named = ((word, word.partition("=")[0] in measuring.tasks) for word in measuring.data)
    parted = (word.partition("=") if of_one else ("", "", word) for word, of_one in named)
    places["runtime.eval.data"] = [name + equals + absolute(source) for name, equals, source in parted]
    for key, value in flat(to_plain(config)).items():
        place = str(value)
        if key.endswith("anchor.source") and Anchor(source=Place(place)).is_model and Path(place).exists():
            places[key] = str(Path(place).absolute())
    return with_settings(config, places)


def _stretch(plain: dict[str, Any], before: int, given: Mapping[str, Any], *, steps: str, path: str = "") -> float:
    """Multiply, in place, what plain settings count in steps by what `steps` is multiplied; return that.

    Args:
        before: how many steps there were.
        given: new settings by dotted key, which stay as they are.
        path: of `plain`, with a dot at its end.
    """
    now = given.get(steps)
    times = now / before if type(now) is int and 0 < now < 2**63 else 1.0
    for name in list(plain) if steps in given else ():
        if isinstance(plain[name], dict):
            _stretch(plain[name], before, given, steps=steps, path=f"{path}{name}.")
        elif name in COUNTS and type(plain[name]) is int and plain[name]:
            plain[name] = max(1, round(times * plain[name]))
    counts = {part: plain[part] for part in PARTS if type(plain.get(part)) is int}
    fixed = [given[path + part] for part in counts if type(given.get(path + part)) is int]
    free = {part: count for part, count in counts.items() if type(given.get(path + part)) is not int}
    left, first, last = max(0, round(times * sum(counts.values())) - sum(fixed)), 0, sum(free.values()) or 1
    for part, count in free.items() if steps in given else ():  # by their ends, so that rounding adds nothing
        plain[part] = round(left * (first + count) / last) - round(left * first / last)
        first += count
    return times


def _structure_objectives(value: Any, _: Any) -> ObjectiveConfigs:
    if not isinstance(value, Mapping):
        raise TypeError(f"expected objectives by name, got {value!r}")
    chosen = ObjectiveConfigs({})
    for name, config in value.items():
        if config is None:  # switched off
            continue
        kind: Any = GenericAlias(dict, (str, objectives.find(str(name)).Config))
        chosen.update(converter.structure({name: config}, kind))  # of a mistake the name is said, too
    return chosen


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


converter.register_structure_hook(ObjectiveConfigs, _structure_objectives)
converter.register_structure_hook(Words, _structure_words)
_runtime_as_written = converter.get_structure_hook(Runtime)
converter.register_structure_hook(Runtime, _structure_runtime)
_as_written = converter.get_structure_hook(Experiment)
converter.register_structure_hook(
    Experiment, lambda value, kind: _as_written(current(value, RETIRED) if isinstance(value, Mapping) else value, kind)
)
