"""Numbers of the settings: their bounds, said where the field is, and schedules, which are one number per step.

`flip: float = between(0, 1, 0.5)` is checked whenever an instance is made, on the command line, in config.yaml and in
Python; null passes, of a list every member is checked, of a schedule every value it takes. Only what fields say of each
other stays in `__post_init__`. Without a default the field must be given.

A schedule is a warm-up, then a constant, a cosine or a line. Two conventions of the field differ by one step, and both
stay reproducible: the older recipes (DINO, DINOv2) let the warm-up reach its peak on its last step and the cosine stop
one step short of its end; DINOv3 starts the cosine at the peak and lets it reach its end.
Source: DINO (arXiv:2104.14294) section 3.1 with its published recipe; DINOv3 (arXiv:2508.10104) section 3.2.
"""

import math
from dataclasses import MISSING, dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from dinokit.core.messages import UserError

Number = int | float
RISING = ", rising"


class OutOfBounds(UserError):
    """A setting outside its bounds."""

    def __init__(self, name: str, wrong: str) -> None:
        super().__init__(f"{name} {wrong}")
        self.name, self.wrong = name, wrong


@dataclass(eq=False)
class Bound:
    """A field's bounds and default, as a descriptor without `__get__`: an instance's own value is read at no cost."""

    text: str
    default: Any
    low: Number
    high: Number
    without: Number | None = None

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name
        annotation = owner.__annotations__[name]
        origin: Any = get_origin(annotation)
        kinds = get_args(annotation) if origin in (Union, UnionType) else (annotation,)
        self.text += ", or null" if NoneType in kinds else ""
        tuples = [get_args(kind) for kind in kinds if get_origin(kind) is tuple]
        self.count = len(tuples[0]) if tuples and Ellipsis not in tuples[0] else 0  # 0: any number

    def __set__(self, instance: Any, value: Any) -> None:
        value = self.default if value is self else value  # to a dataclass the bound itself is the default
        if value is MISSING:
            raise OutOfBounds(self.name, "is missing; give it a value")
        several = isinstance(value, tuple | list)
        given = list(value) if several else [value]
        if self.count and value is not None and not (several and len(given) == self.count):
            raise OutOfBounds(self.name, f"must be {self.count} numbers, {self.text}, got {value}")
        numbers = [number for each in given for number in getattr(each, "values", (each,)) if number is not None]
        fits = [each for each in numbers if hasattr(each, "__float__") and not isinstance(each, bool)]
        fits = [
            each for each in fits if self.low <= each <= self.high and each != self.without and abs(each) < math.inf
        ]
        if not given or fits != numbers or (RISING in self.text and sorted(fits) != fits):
            got = str(value) if not hasattr(value, "values") else f"{min(value.values)} to {max(value.values)}"
            raise OutOfBounds(self.name, f"must be {self.text}, got {got}")
        instance.__dict__[self.name] = tuple(value) if isinstance(value, list) else value


def between(
    low: Number, high: Number, default: Any = MISSING, *, without: Number | None = None, rising: bool = False
) -> Any:
    """Bound a field from both sides.

    Args:
        without: an end that does not belong.
        rising: several numbers of which none is smaller than the one before.
    """
    text = f"between {low} and {high}" + (f" without {without}" if without is not None else "")
    return Bound(text + (RISING if rising else ""), default, low, high, without)


def at_least(low: Number, default: Any = MISSING) -> Any:
    """Bound a field from below."""
    return Bound(f"at least {low}", default, low, math.inf)


def above(low: Number, default: Any = MISSING, *, rising: bool = False) -> Any:
    """Bound a field from below by what it must not be."""
    return Bound(f"above {low}" + (RISING if rising else ""), default, low, math.inf, low)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A value per step: 0 while frozen, warm-up `start` -> `peak`, `peak` held, `shape` towards `end`, then `end`."""

    peak: float  # value after the warm-up
    end: float  # value after the decay; equals `peak` for shape "constant"
    start: float = 0.0  # value at the first step of the warm-up
    warmup: int = at_least(0, 0)  # steps of linear warm-up
    hold: int = at_least(0, 0)  # steps at the peak that follow the warm-up
    decay: int = at_least(0, 0)  # steps of the decay after that
    freeze: int = at_least(0, 0)  # steps at 0 that come before the warm-up
    shape: Literal["constant", "cosine", "linear"] = "constant"  # how the decay goes from peak to end
    inclusive: bool = False  # False: DINO, DINOv2 (warm-up includes its peak); True: DINOv3 (decay includes its end)

    def __post_init__(self) -> None:
        if self.shape == "constant" and (self.hold or self.decay):
            raise UserError(f"a constant schedule has nothing to hold or decay, got {self.hold} and {self.decay} steps")
        if self.shape == "constant" and self.peak != self.end:
            raise UserError(
                f"a constant schedule needs end = peak, got {self.end} and {self.peak}; set both or choose shape cosine"
            )

    @property
    def values(self) -> tuple[float, ...]:
        """The corners between which all values lie."""
        return (self.at(0), self.peak, self.end, *([self.start] if self.warmup else []))

    @property
    def length(self) -> int:
        """Steps until `end` is reached."""
        return self.freeze + self.warmup + self.hold + self.decay

    def at(self, step: int) -> float:
        """Return the value at a step counted from 0."""
        if step < self.freeze:
            return 0.0
        step -= self.freeze
        if step < self.warmup:
            intervals = self.warmup if self.inclusive else self.warmup - 1
            return self.start + (self.peak - self.start) * (step / intervals if intervals else 0.0)
        step -= self.warmup
        if step < self.hold:
            return self.peak
        if self.shape == "constant" or step >= self.hold + self.decay:
            return self.end
        intervals = self.decay - 1 if self.inclusive else self.decay
        progress = (step - self.hold) / intervals if intervals else 0.0
        if self.shape == "linear":
            return self.peak + (self.end - self.peak) * progress
        return self.end + (self.peak - self.end) * (1 + math.cos(math.pi * progress)) / 2


def constant(value: float) -> Schedule:
    """Return the schedule that never changes."""
    return Schedule(peak=value, end=value)


def cosine(peak: float, end: float, *, steps: int, warmup: int = 0, hold: int = 0, start: float = 0.0) -> Schedule:
    """Return warm-up and cosine decay over `steps` in all, in the convention of DINO and DINOv2."""
    decay = steps - warmup - hold
    return Schedule(start=start, peak=peak, end=end, warmup=warmup, hold=hold, decay=decay, shape="cosine")


def ramp(start: float, end: float, *, steps: int, inclusive: bool = False) -> Schedule:
    """Return a linear ramp over `steps`, then the constant `end`.

    Args:
        inclusive: DINOv3's convention, where the step after the ramp is the first at `end`; else its last one is.
    """
    return Schedule(start=start, peak=end, end=end, warmup=steps, inclusive=inclusive)
