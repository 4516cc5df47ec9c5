"""What is distilled: which teacher, which students. They stand in the experiment of a run as `distil`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NewType

from dinokit.config import converter, from_plain, to_plain
from dinokit.core.bounds import at_least
from dinokit.core.errors import UserError, unknown_name
from dinokit.models.architecture import KINDS, Architecture, kind
from dinokit.models.variants import ARCHITECTURES
from dinokit.views import multicrop

RESERVED = ("model", "state", "heads", "optimizer")  # names that a run's files and state have already
Settings = NewType("Settings", dict[str, Any])  # of an architecture, as in config.yaml


@dataclass(frozen=True, kw_only=True)
class Student:
    """An architecture that learns."""

    kind: str  # vit or convnext
    settings: Settings

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown_name("kind of student", self.kind, KINDS)
        if self.kind == "resnet":
            raise UserError("a student is vit or convnext: the average of a ResNet would miss its batch statistics")
        _ = self.architecture  # a mistake is said now

    @property
    def architecture(self) -> Architecture:
        """The typed settings."""
        return from_plain(KINDS[self.kind], self.settings)


Students = NewType("Students", dict[str, Student])


@dataclass(frozen=True, kw_only=True)
class Config:
    """A frozen teacher and those who learn from it."""

    teacher: str  # a run, RUN/checkpoints/STEP, a model's file or name
    students: Students  # by name, which is that of the file with its weights
    fit_images: int = at_least(2, 4096)  # images by whose features a teacher without heads gets prototypes

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
        return next(
            (name for name, student in self.students.items() if student.kind == "vit"), next(iter(self.students))
        )

    def check_crops(self, crops: multicrop.Config) -> None:
        """Refuse crops that a student cannot look at whole.

        Raises:
            UserError: names the student and the nearest sizes.
        """
        for name, student in self.students.items():
            patch = student.architecture.patch_size
            own = crops if student.kind == "vit" else replace(crops, local_count=0)  # a convolution drops what is over
            try:
                multicrop.check_sizes(own, patch_size=patch)
            except UserError as error:
                raise UserError(f"student {name}: {error}") from error
            smallest = min(each.local_size for each in crops.variants())
            if crops.local_count and smallest < patch:
                raise UserError(f"student {name} wants local crops of at least {patch} pixels, got {smallest}")


def chosen(names: str) -> Students:
    """Read names such as `vit-tiny,vits16,convnext_tiny`; the family may be left out where it is DINOv3.

    Raises:
        UserError: for a name that no architecture has.
    """
    found: dict[str, Student] = {}
    for word in filter(None, (each.strip() for each in names.split(","))):
        name = word.replace("-", "_")
        known = next((each for each in (name, f"dinov3_{name}") if each in ARCHITECTURES), None)
        if known is None:
            raise unknown_name("student", word, ARCHITECTURES)
        if name in found:
            raise UserError(f"{word} stands twice among the students; name each once")
        found[name] = Student(kind=kind(ARCHITECTURES[known]), settings=Settings(to_plain(ARCHITECTURES[known])))
    return Students(found)


def _structure_settings(value: Any, _: Any) -> Settings:
    if not isinstance(value, Mapping):
        raise TypeError(f"expected settings of an architecture, got {value!r}")
    return Settings(to_plain(value))


def _structure_students(value: Any, _: Any) -> Students:
    if not isinstance(value, Mapping):
        raise TypeError(f"expected students by name, got {value!r}")
    return Students({str(name): converter.structure(student, Student) for name, student in value.items()})


converter.register_structure_hook(Settings, _structure_settings)
converter.register_structure_hook(Students, _structure_students)
