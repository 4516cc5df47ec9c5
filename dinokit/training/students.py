"""What is distilled: which teacher, which students. They stand in the experiment of a run as `distil`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NewType

from dinokit.config import converter
from dinokit.core.bounds import at_least
from dinokit.core.messages import UserError
from dinokit.models.architecture import ARCHITECTURES, Architecture, named
from dinokit.views import multicrop

RESERVED = ("model", "state", "heads", "optimizer")  # names that a run's files and state have already
Students = NewType("Students", dict[str, Architecture])


@dataclass(frozen=True, kw_only=True)
class Config:
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
    return Students({name: converter.structure(each, Architecture) for name, each in plain.items()})  # type: ignore[arg-type]


converter.register_structure_hook(Students, _structure_students)
