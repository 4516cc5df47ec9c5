"""The experiment of a run: every setting that may change a number."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import GenericAlias
from typing import Any, NewType

from dinokit.config import converter, current, differences, from_plain, to_plain
from dinokit.core.device import Precision
from dinokit.core.messages import UserError, unknown_name
from dinokit.core.numbers import Schedule, above, at_least, between
from dinokit.images.intensity import Pixels
from dinokit.models.architecture import Architecture
from dinokit.objectives import base as objectives
from dinokit.sources.source import Source, open_source
from dinokit.training import optim
from dinokit.training.course import FIRST, FITTED, RETIRED, Anchor, Begin, Distillation, Stages, Start, changed
from dinokit.training.trained import ALL, HEADS
from dinokit.views import masking, multicrop

ALONE = ""  # name of the network of a pretraining, which has no others beside it
DRAWN = ("drop_path", "drop_path_shape", "rope.shift", "rope.jitter", "rope.rescale")  # of a backbone, no weights
ObjectiveConfigs = NewType("ObjectiveConfigs", dict[str, Any])  # file name in objectives/ -> its Config


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
        headless = not any(getattr(config, "head", None) for config in self.objectives.values())
        if self.optim.trained == HEADS and headless:
            raise UserError("optim.trained heads leaves nothing that learns: no objective has a head; set it to all")
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
        name = FITTED if self.optim.trained == HEADS else FIRST
        found = [RunStage(name, alone, first=0, begin=None)]
        for name, stage in self.stages.items():
            before = found[-1]
            if name == found[0].name == FITTED:
                raise UserError(
                    f"stages.{name}: so the steps before it are called, with optim.trained {HEADS}; rename it"
                )
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
        chosen = by_name[stage] if stage else self.all_stages[0]
        if chosen.begin is not None and not start:
            raise UserError(f"stage {stage} begins with the weights of the stage before it; give them with --from")
        begin = Start(source=start, begin=chosen.begin or "teacher") if start else None
        return replace(chosen.experiment if stage else self, start=begin)

    def _check_distillation(self, distil: Distillation) -> None:
        distil.check_crops(self.data.views)
        for name in ("anchor", "start", "stages"):
            if getattr(self, name):
                raise UserError(f"a distillation has no {name}; set it to null")
        if self.optim.trained != ALL:
            raise UserError(f"students begin at random and learn whole; set optim.trained to {ALL}")
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


converter.register_structure_hook(ObjectiveConfigs, _structure_objectives)
_as_written = converter.get_structure_hook(Experiment)
converter.register_structure_hook(
    Experiment, lambda value, kind: _as_written(current(value, RETIRED) if isinstance(value, Mapping) else value, kind)
)
