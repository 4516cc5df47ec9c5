"""What a run has beside one pretraining from random weights, as settings: stages, an anchor, a frozen teacher.

DINOv3 trains in three stages: pre-training, then Gram anchoring with all that was learned, optimiser included, then
high resolution, which begins anew from the EMA teacher. A stage is written as what differs from the stage before it;
its schedules count its own steps. The anchor is the earlier network that the Gram objective holds the student's patches
to: a teacher from early in the run is the better one (figure 5b, table 5a), and in the published stage the EMA teacher
of the day replaces it three times.
Source: DINOv3 (arXiv:2508.10104) sections 3.2, 4.2 and 5.1.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NewType

from dinokit.config import converter, current, to_plain
from dinokit.core.messages import UserError
from dinokit.core.numbers import at_least
from dinokit.models.architecture import ARCHITECTURES, Architecture, named
from dinokit.views import multicrop

FIRST, FITTED = "pretrain", "heads"  # name of what comes before the stages; where it fits heads alone
Begin = Literal["continue", "teacher"]
# settings that earlier versions wrote into config.yaml, and the value that all of them had in every recipe
RETIRED = {
    "data.masks.roll": False,
    "data.views.local_grid": 0,
    "data.views.share_jitter": False,
    "objectives.gram.patches": "all",
    "objectives.gram.scope": "image",
}
Changes = NewType("Changes", dict[str, Any])  # settings of the experiment, as in config.yaml
RESERVED = ("model", "state", "heads", "optimizer")  # names that a run's files and state have already
Students = NewType("Students", dict[str, Architecture])
Place = NewType("Place", str)
TEACHER, START, AUTO = Place("teacher"), Place("start"), Place("auto")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of a run that has settings of its own."""

    steps: int = at_least(1)  # optimiser steps
    begin: Begin = "continue"  # with all that was learned; teacher: student and teacher are the teacher, new moments
    changes: Changes = field(default_factory=lambda: Changes({}))  # settings that differ from the stage before


Stages = NewType("Stages", dict[str, Stage])


@dataclass(frozen=True, kw_only=True)
class Start:
    """Weights that a run begins with instead of random ones."""

    source: str  # a run, RUN/checkpoints/STEP, or a model's file or name
    begin: Begin = "teacher"  # as of a stage; a model's file has no more than a teacher


def changed(plain: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return plain settings with the changes put in; groups are merged, anything else is replaced."""
    result = dict(plain)
    for name, value in changes.items():
        old = result.get(name)
        merges = isinstance(old, Mapping) and isinstance(value, Mapping)
        result[name] = changed(old, value) if merges else value  # type: ignore[arg-type]
    return result


@dataclass(frozen=True, kw_only=True)
class Anchor:
    """The anchor; the steps are those of the stage."""

    # start: the EMA teacher as the stage begins; teacher: that of every step; auto: that of the earlier step whose
    # patches are best (run/anchoring.py); a number: that of this step; or a model's path
    source: Place = START
    candidates: int = at_least(1, 10)  # for auto: earlier steps that are compared; the run keeps their teachers
    images: int = at_least(2, 128)  # for auto: looked at, the same ones for each
    first: int = at_least(0, 0)  # steps before the EMA teacher may replace the anchor
    every: int = at_least(0, 0)  # steps between replacements, at multiples of this; 0: never
    most: int = at_least(0, 0)  # replacements in all

    def __post_init__(self) -> None:
        if not self.source:
            raise UserError("anchor.source is empty; give start, teacher, auto, a step or the path of a model")
        if bool(self.every) != bool(self.most):
            raise UserError(f"anchor.every and anchor.most are both 0 or neither, got {self.every} and {self.most}")
        if self.source == TEACHER and self.every:
            raise UserError("anchor.source teacher is new at every step; set anchor.every and anchor.most to 0")

    @property
    def apart(self) -> bool:
        """Tell whether it is a network beside the EMA teacher."""
        return self.source != TEACHER

    @property
    def is_model(self) -> bool:
        """Tell whether it is another model, by path or by name."""
        return self.source not in (TEACHER, START, AUTO) and not self.source.isdecimal()

    def steps(self, before: int) -> tuple[int, ...]:
        """Return the steps whose teachers it may take, of so many that lie before the stage."""
        if self.source.isdecimal():
            return (int(self.source),)
        if self.source != AUTO:
            return ()
        return tuple(sorted({-(-before * number // self.candidates) for number in range(1, self.candidates + 1)}))

    def due(self, done: int) -> bool:
        """Tell whether the EMA teacher replaces the anchor once so many steps of the stage are done."""
        if not self.every or done % self.every or done < max(self.first, 1):
            return False
        before = (max(self.first, 1) - 1) // self.every  # multiples that came too early
        return done // self.every - before <= self.most


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """A frozen teacher and those who learn from it."""

    teacher: str  # a run, RUN/checkpoints/STEP, a model's file or name
    students: Students  # by name, which is that of the file with its weights
    fit_images: int = at_least(2, 4096)  # for a teacher without heads: images by whose features it gets prototypes

    def __post_init__(self) -> None:
        if not self.students:
            raise UserError("there is no student; name some with --students vit_tiny,dinov3_vits16")
        for name in self.students:  # they become files, and prefixes of the saved state
            if not re.fullmatch("[A-Za-z0-9_]+", name) or name in RESERVED:
                raise UserError(
                    f"a student's name is of letters, digits and _, and none of {', '.join(RESERVED)}; got {name!r}"
                )

    @property
    def shown(self) -> str:
        """The student that stands for the run in reports and measurements: the first transformer, else the first."""
        return next((name for name, each in self.students.items() if each.whole_patches), next(iter(self.students)))

    def check_crops(self, crops: multicrop.Config) -> None:
        """Refuse crops that a student cannot look at whole, or whose patches cannot be compared with the teacher's.

        Raises:
            UserError: names the student and the nearest sizes.
        """
        for name, each in self.students.items():
            try:
                multicrop.check_sizes(crops, patch_size=each.patch_size, whole_locals=each.whole_patches)
            except UserError as error:
                raise UserError(f"student {name}: {error}") from error


def chosen(names: str) -> Students:
    """Read names such as `vit-tiny,vits16,convnext_tiny`; the family may be left out where it is DINOv3.

    Raises:
        UserError: for a name that no architecture has.
    """
    found: dict[str, Architecture] = {}
    for word in filter(None, (each.strip() for each in names.split(","))):
        name = word.replace("-", "_")
        if name in found:
            raise UserError(f"{word} stands twice among the students; name each once")
        found[name] = ARCHITECTURES[named(word)]
    return Students(found)


def _structure_place(value: Any, _: Any) -> Place:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise TypeError(f"expected start, teacher, auto, a step or the path of a model, got {value!r}")
    return Place(str(value))


def _structure_students(value: Any, _: Any) -> Students:
    if not isinstance(value, Mapping):
        raise TypeError(f"expected students by name, got {value!r}")
    # early files had the settings in a group of their own
    plain = {
        str(name): {**each["settings"], "kind": each.get("kind")}
        if isinstance(each, Mapping) and "settings" in each
        else each
        for name, each in value.items()
    }
    return Students(converter.structure(plain, dict[str, Architecture]))


def _structure_changes(value: Any, _: Any) -> Changes:
    if not isinstance(value, Mapping):
        raise TypeError(f"expected settings of the experiment that differ, got {value!r}")
    return Changes(current(to_plain(value), RETIRED))


def _structure_stages(value: Any, _: Any) -> Stages:
    if not isinstance(value, Mapping):
        raise TypeError(f"expected stages by name, got {value!r}")
    # a stage that is set to null is left out
    chosen = {str(name): stage for name, stage in value.items() if stage is not None}
    return Stages(converter.structure(chosen, dict[str, Stage]))


converter.register_structure_hook(Changes, _structure_changes)
converter.register_structure_hook(Stages, _structure_stages)
converter.register_structure_hook(Place, _structure_place)
converter.register_structure_hook(Students, _structure_students)
