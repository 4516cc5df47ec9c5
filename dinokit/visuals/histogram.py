"""How many groups have which size, as inline SVG: bars over sizes that double, several kinds side by side.

Sizes of clusters span decades, so a bar stands for 1, for 2 and 3, for 4 to 7, and so on; the first is for empty ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from jaxtyping import Int64

from dinokit.visuals.plot import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, number, ticks

LABELS = 9  # under the bars, at most


@dataclass(frozen=True)
class Sizes:
    """The sizes of some groups."""

    name: str
    sizes: Int64[np.ndarray, " group"]
    colour: int = 0  # 0 to 5, classes of the style sheet


def doubling(sizes: Int64[np.ndarray, " group"], bins: int) -> Int64[np.ndarray, " bin"]:
    """Count the groups of size 0, 1, 2 to 3, 4 to 7, and so on; `bins` must reach the largest."""
    place = np.frexp(sizes.astype(np.float64))[1]  # 0 of 0, 1 of 1, 2 of 2 and 3
    return np.bincount(place, minlength=bins).astype(np.int64)


def histogram(kinds: Sequence[Sizes], *, title: str, what: str) -> str:
    """Draw the sizes of groups as a <figure>.

    Args:
        what: is counted, in plural, such as clusters.
    """
    largest = max(int(one.sizes.max()) for one in kinds)
    bins = largest.bit_length() + 1
    counts = [doubling(one.sizes, bins) for one in kinds]
    first = 0 if any(count[0] for count in counts) else 1  # no place for empty ones where there are none
    top = max(max(int(count.max()) for count in counts), 1)
    room, high = (WIDTH - LEFT - RIGHT) / (bins - first), HEIGHT - TOP - BOTTOM
    parts = []
    for value in ticks(0, top):
        y = HEIGHT - BOTTOM - value / top * high
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        if value == int(value):
            parts.append(f'<text x="{LEFT - 8}" y="{y + 5:.1f}" text-anchor="end">{number(value)}</text>')
    wide = 0.8 * room / len(kinds)
    for turn, (one, count) in enumerate(zip(kinds, counts, strict=True)):
        bars = ""
        for place in range(first, bins):
            tall, x = int(count[place]) / top * high, LEFT + (place - first + 0.1) * room + turn * wide
            told = escape(f"{one.name}: {number(int(count[place]))} {what} of {_range(place)}")
            shape = f'x="{x:.1f}" y="{HEIGHT - BOTTOM - tall:.1f}" width="{wide:.1f}" height="{tall:.1f}"'
            bars += f'<rect class="bar" {shape}><title>{told}</title></rect>' if count[place] else ""
        parts.append(f'<g class="s{one.colour}">{bars}</g>')
    for place in range(first, bins, -(-(bins - first) // LABELS)):
        x = LEFT + (place - first + 0.5) * room
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 22}" text-anchor="middle">{_from(place)}</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM}"/>')
    parts.append(f'<text x="{LEFT - 12}" y="{HEIGHT - BOTTOM + 22}" text-anchor="end">images</text>')
    legend = "".join(f'<li><i class="s{one.colour}"></i>{escape(one.name)}</li>' for one in kinds)
    spoken = escape(
        f"{title}: {'; '.join(f'{one.name}: up to {number(int(one.sizes.max()))} images' for one in kinds)}"
    )
    return (
        f'<figure class="chart" data-save="{escape(title)}"><h3>{escape(title)}</h3><ul class="legend">{legend}</ul>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{spoken}">{"".join(parts)}</svg></figure>'
    )


def _from(place: int) -> str:
    """Name a bar by its smallest size."""
    size = 1 << (place - 1) if place else 0
    return f"{size >> 10}Ki" if size >= 10_000 else f"{size}"


def _range(place: int) -> str:
    low, high = (1 << (place - 1) if place else 0), (1 << place) - 1
    return f"{number(low)} images" if low >= high else f"{number(low)} to {number(high)} images"
