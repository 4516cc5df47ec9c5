"""Bounds of a setting, said where the setting is: `flip: float = between(0, 1, 0.5)`.

A bounded field of a dataclass is checked whenever an instance is made, on the command line, in config.yaml and in
Python; null passes, of a list every member is checked, of a schedule every value it takes. Only what fields say of each
other stays in `__post_init__`. Without a default the field must be given.
"""

import math
from dataclasses import MISSING, dataclass
from typing import Any

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
        self.text += ", or null" if "None" in str(owner.__annotations__[name]) else ""

    def __set__(self, instance: Any, value: Any) -> None:
        value = self.default if value is self else value  # to a dataclass the bound itself is the default
        if value is MISSING:
            raise OutOfBounds(self.name, "is missing; give it a value")
        given = list(value) if isinstance(value, tuple | list) else [value]
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
