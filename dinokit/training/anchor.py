"""Which earlier network the Gram objective holds the student's patches to, and when it is renewed.

Source: DINOv3 (arXiv:2508.10104) section 4.2 and its ablation (figure 5b, table 5a): a teacher from early in the run is
the better anchor; in the published stage the EMA teacher of the day replaces it three times.
"""

from dataclasses import dataclass
from typing import Any, NewType

from dinokit.config import converter
from dinokit.core.bounds import at_least
from dinokit.core.messages import UserError

Place = NewType("Place", str)
TEACHER, START, AUTO = Place("teacher"), Place("start"), Place("auto")


@dataclass(frozen=True, kw_only=True)
class Config:
    """The anchor; the steps are those of the stage."""

    # start: the EMA teacher as the stage begins; teacher: that of every step; auto: that of the earlier step whose
    # patches are best (candidates.py); a number: that of this step; or a model's path
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


def _structure_place(value: Any, _: Any) -> Place:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise TypeError(f"expected start, teacher, auto, a step or the path of a model, got {value!r}")
    return Place(str(value))


converter.register_structure_hook(Place, _structure_place)
