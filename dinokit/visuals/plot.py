"""Where values lie in a drawing, and how they are written: the plane of a chart, its ticks, long curves made short."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

Number = int | float

WIDTH, HEIGHT = 480, 270
LEFT, RIGHT, TOP, BOTTOM = 66, 22, 12, 34  # margins of the plot
TICKS = 5
PERCENT = " %"


@dataclass(frozen=True)
class Plot:
    """The mapping of values to places."""

    x: tuple[Number, Number]
    y: tuple[Number, Number]
    log: bool = False
    top: Number = TOP
    bottom: Number = HEIGHT - BOTTOM

    @staticmethod
    def around(
        values: Sequence[Number], *, x: tuple[Number, Number], log: bool, top: Number = TOP, bottom: Number
    ) -> "Plot":
        """Make room for values; `log` is taken as linear if one is not positive."""
        low, high = min(values), max(values)
        if log and low > 0:
            return Plot(x, (low / 1.2, high * 1.2), True, top, bottom)
        margin = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
        first = 0.0 if low >= 0 > low - margin else low - margin
        return Plot(x, (first, high + margin), False, top, bottom)

    def at(self, x: Number, y: Number) -> tuple[Number, Number]:
        """Return the place of a point."""
        low, high, value = (math.log10(v) for v in (*self.y, y)) if self.log else (*self.y, y)
        up = (value - low) / (high - low)
        return self.across(x), self.bottom - up * (self.bottom - self.top)

    def across(self, x: Number) -> Number:
        """Return how far to the right a value is."""
        return LEFT + (x - self.x[0]) / (self.x[1] - self.x[0]) * (WIDTH - LEFT - RIGHT)

    def levels(self, unit: str) -> str:
        """Draw the lines of the values to the left."""
        low, high = self.y
        found: Sequence[Number] = []
        if self.log:
            powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
            factors = (1,) if high / low > 1000 else (1, 2, 5)
            found = [f * 10.0**power for power in powers for f in factors if low <= f * 10.0**power <= high]
        count = max(2, round(TICKS * (self.bottom - self.top) / (HEIGHT - TOP - BOTTOM)))
        parts = []
        found = found or ticks(low, high, count=count)
        for value in found if len(found) > 1 else ticks(low, high, count=2 * count):
            y = self.at(self.x[0], value)[1]
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text x="{LEFT - 8}" y="{y + 5:.1f}" text-anchor="end">{short(value)}{escape(unit)}</text>')
        return "".join(parts)

    def ground(self, along: str) -> str:
        """Draw the line below, with what runs to the right; without a word for it the line alone."""
        y = self.bottom
        parts = [f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>']
        for value in ticks(*self.x, count=4) if along else ():
            parts.append(f'<text x="{self.across(value):.1f}" y="{y + 22}" text-anchor="middle">{short(value)}</text>')
        if along:
            parts.append(f'<text x="{LEFT - 12}" y="{y + 22}" text-anchor="end">{escape(along)}</text>')
        return "".join(parts)


def written(value: Number, unit: str) -> str:
    """Write a value with its unit."""
    return f"{value:.1f}{unit}" if unit == PERCENT else f"{number(value)}{unit}"


def number(value: Number) -> str:
    """Write a value for a person: about four significant digits, thousands apart, tiny ones with an exponent."""
    size = abs(value)
    if value == 0:
        return "0"
    if size >= 1000 or (size >= 1 and value == int(value)):
        return f"{value:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    if size >= 100:
        return f"{value:.1f}"
    if size >= 1:
        return f"{value:.2f}"
    return f"{value:.3g}" if size < 0.9 else f"{value:.5g}"


def short(value: Number) -> str:
    """Write a value at an axis."""
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:g}"


def running_mean(values: Sequence[Number], *, window: int) -> list[Number]:
    """Average each value with its neighbours on both sides; the window shrinks at the ends."""
    half = window // 2
    means = []
    for index in range(len(values)):
        reach = min(half, index, len(values) - 1 - index)
        part = values[index - reach : index + reach + 1]
        means.append(sum(part) / len(part))
    return means


def thinned(x: Sequence[Number], y: Sequence[Number], *, count: int) -> tuple[list[Number], list[Number]]:
    """Average a long curve in groups of equal length, so that at most `count` points remain; the last x is kept."""
    group = math.ceil(len(x) / count)
    if group <= 1:
        return list(x), list(y)
    starts = range(0, len(x), group)
    xs = [x[min(start + group, len(x)) - 1] for start in starts]
    ys = [sum(y[start : start + group]) / len(y[start : start + group]) for start in starts]
    return xs, ys


def every(count: int, total: int) -> tuple[int, list[int]]:
    """Return how many of so many points stand for one, and the places of at most `count` of them, the last included."""
    step = max(1, math.ceil(total / count))
    return step, list(range((total - 1) % step, total, step))


def ticks(low: Number, high: Number, *, count: int = TICKS) -> list[Number]:
    """Return round numbers (1, 2 or 5 times a power of ten apart) inside a range."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]
