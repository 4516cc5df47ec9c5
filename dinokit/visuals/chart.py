"""Line charts as inline SVG, written by hand: no library, no script, readable in light and dark by CSS classes alone.

Colours, fonts and dashes come from the page's style sheet (`.s0` ... `.s5`); a point tells its value on hover through
<title>, which screen readers can read too.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape

Number = int | float

WIDTH, HEIGHT = 480, 270
LEFT, RIGHT, TOP, BOTTOM = 66, 22, 12, 34  # margins of the plot
POINTS = 160  # drawn per line; longer curves are averaged in groups
HOVERS = 60  # points per line that tell their value
TICKS = 5
PERCENT = " %"
STEP = "step"


@dataclass(frozen=True)
class Series:
    """A curve."""

    name: str
    x: Sequence[Number]
    y: Sequence[Number]
    colour: int = 0  # 0 to 5, classes of the style sheet
    marks: bool = False  # a dot at every point: for few, measured points
    smooth: bool = False  # the curve in the background and its running mean in front


@dataclass(frozen=True)
class Baseline:
    """A horizontal line to compare with."""

    name: str
    y: Number
    colour: int = 1


@dataclass(frozen=True)
class _Plot:
    """The mapping of values to places."""

    x: tuple[Number, Number]
    y: tuple[Number, Number]
    log: bool

    def at(self, x: Number, y: Number) -> tuple[Number, Number]:
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        low, high, value = (math.log10(v) for v in (*self.y, y)) if self.log else (*self.y, y)
        up = (value - low) / (high - low)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    baselines: Sequence[Baseline] = (),
    unit: str = "",
    log: bool = False,
    along: str = STEP,
    at: Number | None = None,
) -> str:
    """Draw curves, over the training step or what else they are along, as a <figure>.

    Args:
        unit: written behind every value; PERCENT keeps one decimal.
        log: logarithmic values; taken as linear if one is not positive.
        along: what runs to the right; steps do so from zero, all else from its first value.
        at: a place to the right that is marked, and where the legend reads the values; None: the last ones.
    """
    drawn, read = [], {}
    for one in series:
        points = [(x, y) for x, y in zip(one.x, one.y, strict=True) if math.isfinite(x) and math.isfinite(y)]
        xs, ys = [x for x, _ in points], [y for _, y in points]
        if at is not None and points:
            read[one.name] = min(points, key=lambda point: abs(point[0] - at))[1]
        if not one.marks:
            xs, ys = thinned(xs, ys, count=POINTS)
        drawn.append(replace(one, x=xs, y=ys))
    drawn = [one for one in drawn if len(one.x)]
    heading = f'<figure class="chart"><h3>{escape(title)}</h3>'
    if not drawn:
        return f'{heading}<p class="none">Nothing was logged.</p></figure>'
    values = [y for one in drawn for y in one.y] + [line.y for line in baselines]
    low, high, last = min(values), max(values), max(x for one in drawn for x in one.x)
    log = log and low > 0
    margin = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    bottom = 0.0 if low >= 0 > low - margin else low - margin
    first = 0.0 if along == STEP else min(x for one in drawn for x in one.x)
    plot = _Plot(
        (first, last if last > first else first + 1.0), (low / 1.2, high * 1.2) if log else (bottom, high + margin), log
    )
    named = [(one.colour, "", one.name, written(read.get(one.name, one.y[-1]), unit)) for one in drawn]
    named += [(line.colour, " dash", line.name, written(line.y, unit)) for line in baselines]
    legend = "".join(
        f'<li><i class="s{colour}{dash}"></i>{escape(name)} <b>{escape(value)}</b></li>'
        for colour, dash, name, value in named
    )
    told = "; ".join(f"{name}: {value}" for _, _, name, value in named)
    where = "Last values" if at is None else f"Values at {number(at)}"
    spoken = escape(f"{title} by {along}. {where}: {told}")
    parts = [_axes(plot, unit, along)]
    if at is not None:
        x = plot.at(at, plot.y[0])[0]
        parts.append(
            f'<g class="s2"><line class="line dash" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/></g>'
        )
    for line in baselines:
        y = plot.at(0, line.y)[1]
        text = escape(f"{line.name}: {written(line.y, unit)}")
        shape = f'x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"'
        target = f'<line class="wide" {shape}><title>{text}</title></line>'  # wide enough to be hit
        parts.append(f'<g class="s{line.colour}"><line class="line dash" {shape}/>{target}</g>')
    parts += [_curve(plot, one, unit, along) for one in drawn]
    return (
        f'{heading}<ul class="legend">{legend}</ul>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{spoken}">{"".join(parts)}</svg></figure>'
    )


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


def ticks(low: Number, high: Number, *, count: int = TICKS) -> list[Number]:
    """Return round numbers (1, 2 or 5 times a power of ten apart) inside a range."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _axes(plot: _Plot, unit: str, along: str) -> str:
    parts = []
    right, bottom, (low, high) = WIDTH - RIGHT, HEIGHT - BOTTOM, plot.y
    levels: Sequence[Number] = []
    if plot.log:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        factors = (1,) if high / low > 1000 else (1, 2, 5)
        levels = [factor * 10.0**power for power in powers for factor in factors if low <= factor * 10.0**power <= high]
    for value in levels or ticks(low, high):
        y = plot.at(0, value)[1]
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        label = f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:g}"
        parts.append(f'<text x="{LEFT - 8}" y="{y + 5:.1f}" text-anchor="end">{label}{escape(unit)}</text>')
    for value in ticks(*plot.x, count=4):
        x = plot.at(value, plot.y[0])[0]
        label = f"{value / 1000:g}k" if value >= 10_000 else f"{value:g}"
        parts.append(f'<text x="{x:.1f}" y="{bottom + 22}" text-anchor="middle">{label}</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    parts.append(f'<text x="{LEFT - 12}" y="{bottom + 22}" text-anchor="end">{escape(along)}</text>')
    return "".join(parts)


def _curve(plot: _Plot, one: Series, unit: str, along: str) -> str:
    places = [plot.at(x, y) for x, y in zip(one.x, one.y, strict=True)]
    smooth = one.smooth and len(places) >= 30
    lines = [("line faint" if smooth else "line", places)]
    if smooth:
        means = running_mean(one.y, window=max(3, len(one.y) // 12))
        lines.append(("line", [plot.at(x, y) for x, y in zip(one.x, means, strict=True)]))
    parts = []
    for kind, line in lines:
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in line)
        parts.append(f'<polyline class="{kind}" points="{points}"/>')
    if one.marks or len(places) == 1:
        parts += [f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in places]
    for index in range(0, len(places), math.ceil(len(places) / HOVERS)):
        x, y = places[index]
        text = escape(f"{along} {number(one.x[index])}: {one.name} {written(one.y[index], unit)}")
        parts.append(f'<circle class="hover" cx="{x:.1f}" cy="{y:.1f}" r="6"><title>{text}</title></circle>')
    return f'<g class="s{one.colour}">{"".join(parts)}</g>'
