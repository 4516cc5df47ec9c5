"""Line charts as inline SVG, written by hand: no library, readable in light and dark by CSS classes alone.

Colours, fonts and dashes come from the page's style sheet (`.s0` ... `.s5`); a point tells its value on hover through
<title>, which screen readers can read too. Behind curves over the step lies the course of the run: its stages, shaded
by turns, and places that are marked.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape

from dinokit.visuals.plot import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Number,
    Plot,
    every,
    number,
    running_mean,
    thinned,
    written,
)

POINTS = 160  # drawn per line; longer curves are averaged in groups, of measured ones every so many is drawn
HOVERS = 60  # points per line that tell their value
TALL, APART = 150, 30  # of one panel of several, and between them
BAND = 18  # above the first panel, for the names of stages
LETTER = 9  # pixels of one, about, in what is written into a chart
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
    low: Sequence[Number] = ()  # ends of the interval of each point; empty: none is known
    high: Sequence[Number] = ()


@dataclass(frozen=True)
class Baseline:
    """A horizontal line to compare with."""

    name: str
    y: Number
    colour: int = 1


@dataclass(frozen=True)
class Span:
    """A stretch of steps with a name."""

    name: str
    first: Number
    last: Number


@dataclass(frozen=True)
class Mark:
    """A place to the right that is marked."""

    name: str
    x: Number


@dataclass(frozen=True)
class Course:
    """What lies behind curves: the stages of a run, and what happened at which step."""

    spans: tuple[Span, ...] = ()
    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True)
class Panel:
    """Curves of one unit, one above another in a figure that shares what runs to the right."""

    series: Sequence[Series]
    baselines: Sequence[Baseline] = ()
    unit: str = ""
    log: bool = False  # logarithmic values; taken as linear if one is not positive
    title: str = ""  # of several; of one the figure's title says it


NO_COURSE = Course()


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    baselines: Sequence[Baseline] = (),
    unit: str = "",
    log: bool = False,
    along: str = STEP,
    at: Number | None = None,
    course: Course = NO_COURSE,
) -> str:
    """Draw curves, over the training step or what else they are along, as a <figure>.

    Args:
        unit: written behind every value; PERCENT keeps one decimal.
        log: logarithmic values; taken as linear if one is not positive.
        along: what runs to the right; steps do so from zero, all else from its first value.
        at: a place to the right that is marked, and where the legend reads the values; None: the last ones.
        course: what lies behind the curves.
    """
    return panels([Panel(series, baselines, unit, log)], title=title, along=along, at=at, course=course)


def panels(
    several: Sequence[Panel],
    *,
    title: str,
    along: str = STEP,
    at: Number | None = None,
    course: Course = NO_COURSE,
) -> str:
    """Draw charts one below another, over the same range, as one <figure>; the arguments are those of `line_chart`."""
    ready = [one for one in (replace(each, series=_drawn(each.series)) for each in several) if one.series]
    heading = f'<figure class="chart" data-save="{escape(title)}"><h3>{escape(title)}</h3>'
    if not ready:
        return f'<figure class="chart"><h3>{escape(title)}</h3><p class="none">Nothing was logged.</p></figure>'
    xs = [x for one in ready for each in one.series for x in each.x]
    first, last = (0.0 if along == STEP else min(xs)), max([*xs, *(span.last for span in course.spans)])
    reach = (first, last if last > first else first + 1.0)
    high = HEIGHT - TOP - BOTTOM if len(ready) == 1 else TALL
    parts, named = [], list[tuple[int, str, str, str]]()
    begin = (APART if len(ready) > 1 else TOP) + (BAND if course.spans else 0)
    for turn, one in enumerate(ready):
        top = begin + turn * (high + APART)
        values = [y for each in one.series for y in (*each.y, *each.low, *each.high)] + [b.y for b in one.baselines]
        plot = Plot.around(values, x=reach, log=one.log, top=top, bottom=top + high)
        parts.append(_panel(plot, one, along, turn=(turn, len(ready)), at=at, course=course))
        named += _legend(one, at)
    tall = plot.bottom + BOTTOM
    legend = "".join(
        f'<li><i class="s{colour}{dash}"></i>{escape(name)} <b>{escape(value)}</b></li>'
        for colour, dash, name, value in named
    )
    told = "; ".join(f"{name}: {value}" for _, _, name, value in named)
    where = "Last values" if at is None else f"Values at {number(at)}"
    spoken = escape(f"{title} by {along}. {where}: {told}")
    return (
        f'{heading}<ul class="legend">{legend}</ul>'
        f'<svg viewBox="0 0 {WIDTH} {tall}" role="img" aria-label="{spoken}">{"".join(parts)}</svg></figure>'
    )


def _drawn(series: Sequence[Series]) -> list[Series]:
    """Return what can be drawn of curves: finite points, not too many."""
    found = []
    for one in series:
        low, high = one.low or one.y, one.high or one.y
        points = [
            point for point in zip(one.x, one.y, low, high, strict=True) if all(math.isfinite(value) for value in point)
        ]
        if not points:
            continue
        if one.marks:
            points = [points[place] for place in every(POINTS, len(points))[1]]
            xs, ys, lows, highs = (list(column) for column in zip(*points, strict=True))
            found.append(replace(one, x=xs, y=ys, low=lows if one.low else (), high=highs if one.low else ()))
        else:
            xs, ys = thinned([x for x, *_ in points], [y for _, y, *_ in points], count=POINTS)
            found.append(replace(one, x=xs, y=ys))
    return found


def _legend(one: Panel, at: Number | None) -> list[tuple[int, str, str, str]]:
    """Return colour, kind, name and value of each line of a panel."""
    named = []
    for each in one.series:
        near = len(each.x) - 1 if at is None else min(range(len(each.x)), key=lambda place: abs(each.x[place] - at))
        named.append((each.colour, "", each.name, written(each.y[near], one.unit)))
    return named + [(line.colour, " dash", line.name, written(line.y, one.unit)) for line in one.baselines]


def _panel(plot: Plot, one: Panel, along: str, *, turn: tuple[int, int], at: Number | None, course: Course) -> str:
    """Draw what lies behind, the axes, the curves, and what is written in front; `turn` is which of how many."""
    first, last = turn[0] == 0, turn[0] + 1 == turn[1]
    parts = [_span(plot, span, place, named=first) for place, span in enumerate(course.spans)]
    if one.title:
        above = BAND if first and course.spans else 0
        parts.append(f'<text class="panel" x="{LEFT}" y="{plot.top - 8 - above}">{escape(one.title)}</text>')
    parts += [plot.levels(one.unit), plot.ground(along if last else "")]
    marks = [*course.marks, *([] if at is None else [Mark("", at)])]
    parts += [_upright(plot, mark) for mark in marks]
    for line in one.baselines:
        y = plot.at(plot.x[0], line.y)[1]
        text = escape(f"{line.name}: {written(line.y, one.unit)}")
        shape = f'x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"'
        target = f'<line class="wide" {shape}><title>{text}</title></line>'  # wide enough to be hit
        parts.append(f'<g class="s{line.colour}"><line class="line dash" {shape}/>{target}</g>')
    parts += [_curve(plot, each, one.unit, along) for each in one.series]
    return "".join([*parts, *(_named(plot, mark) for mark in course.marks if first)])


def _span(plot: Plot, span: Span, turn: int, *, named: bool) -> str:
    """Shade every other stage, and write its name where it fits."""
    left, right = plot.across(span.first), plot.across(span.last)
    told = escape(f"stage {span.name}: steps {number(span.first)} to {number(span.last)}")
    kind = "span" if turn % 2 else "span clear"
    shape = f'x="{left:.1f}" y="{plot.top}" width="{right - left:.1f}" height="{plot.bottom - plot.top}"'
    parts = [f'<rect class="{kind}" {shape}><title>{told}</title></rect>']
    if named and LETTER * len(span.name) < right - left:
        place = f'x="{(left + right) / 2:.1f}" y="{plot.top - 5}" text-anchor="middle"'
        parts.append(f'<text class="name" {place}>{escape(span.name)}</text>')
    return "".join(parts)


def _upright(plot: Plot, mark: Mark) -> str:
    """Draw the line of a mark from top to bottom."""
    x = plot.across(mark.x)
    shape = f'x1="{x:.1f}" x2="{x:.1f}" y1="{plot.top}" y2="{plot.bottom}"'
    told = f'<line class="wide" {shape}><title>{escape(mark.name)}</title></line>' if mark.name else ""
    return f'<g class="at"><line class="line dash" {shape}/>{told}</g>'


def _named(plot: Plot, mark: Mark) -> str:
    """Write the name of a mark beside its line, on the side where there is room."""
    x = plot.across(mark.x)
    place, end = (x - 6, "end") if x + 6 + LETTER * len(mark.name) > WIDTH else (x + 6, "start")
    text = escape(mark.name)
    return f'<text class="name mark-name" x="{place:.1f}" y="{plot.bottom - 8}" text-anchor="{end}">{text}</text>'


def _curve(plot: Plot, one: Series, unit: str, along: str) -> str:
    places = [plot.at(x, y) for x, y in zip(one.x, one.y, strict=True)]
    smooth = one.smooth and len(places) >= 30
    lines = [("line faint" if smooth else "line", places)]
    if smooth:
        means = running_mean(one.y, window=max(3, len(one.y) // 12))
        lines.append(("line", [plot.at(x, y) for x, y in zip(one.x, means, strict=True)]))
    parts = []
    for x, low, high in zip(one.x, one.low, one.high, strict=bool(one.low)):
        across, (lower, upper) = plot.across(x), (plot.at(x, low)[1], plot.at(x, high)[1])
        parts.append(f'<line class="whisker" x1="{across:.1f}" x2="{across:.1f}" y1="{lower:.1f}" y2="{upper:.1f}"/>')
    for kind, line in lines:
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in line)
        parts.append(f'<polyline class="{kind}" points="{points}"/>')
    if one.marks or len(places) == 1:
        parts += [f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in places]
    for index in range(0, len(places), math.ceil(len(places) / HOVERS)):
        x, y = places[index]
        text = f"{along} {number(one.x[index])}: {one.name} {written(one.y[index], unit)}"
        if one.low:
            text += f" (95 %: {written(one.low[index], unit)} to {written(one.high[index], unit)})"
        dot = f'<circle class="hover" cx="{x:.1f}" cy="{y:.1f}" r="6"><title>{escape(text)}</title></circle>'
        parts.append(dot)
    return f'<g class="s{one.colour}">{"".join(parts)}</g>'
