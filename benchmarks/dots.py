"""A picture of runs: a panel per measure, a row per kind, a dot per run, a stroke at the mean, dashes to beat."""

import statistics
from collections.abc import Mapping, Sequence
from html import escape

LABELS, WIDTH, ROW, TOP, GAP = 110, 150, 24, 44, 20  # pixels
COLOURS = ("#b45309", "#6b7280", "#15803d")  # of the dashed lines


def picture(
    runs: Mapping[str, Mapping[str, Sequence[float]]], dashes: Mapping[str, Mapping[str, float]], *, title: str
) -> str:
    """Return an SVG.

    Args:
        runs: by measure and kind of run, a value per run; every measure has the same kinds.
        dashes: by measure, values to compare with.
    """
    rows = list(next(iter(runs.values())))
    names = list(next(iter(dashes.values())))
    bottom = TOP + ROW * len(rows)
    width = LABELS + len(runs) * (WIDTH + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {bottom + 50}" font-family="sans-serif" '
        f'font-size="11"><title>{escape(title)}</title><rect width="100%" height="100%" fill="white"/>'
    ]
    parts += [f'<text x="4" y="{TOP + ROW * (n + 0.65):.0f}">{escape(name)}</text>' for n, name in enumerate(rows)]
    for number, (measure, kinds) in enumerate(runs.items()):
        parts.append(_panel(LABELS + number * (WIDTH + GAP), bottom, measure, kinds, dashes[measure]))
    for number, (name, colour) in enumerate(zip(names, COLOURS, strict=False)):
        x = LABELS + 150 * number
        parts.append(f'<path d="M{x} {bottom + 36}h24" stroke="{colour}" stroke-dasharray="4 3"/>')
        parts.append(f'<text x="{x + 30}" y="{bottom + 40}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>\n"])


def _panel(
    left: int, bottom: int, title: str, kinds: Mapping[str, Sequence[float]], dashes: Mapping[str, float]
) -> str:
    values = [value for each in kinds.values() for value in each] + list(dashes.values())
    low, high = min(values), max(values)

    def at(value: float) -> str:
        return f"{left + 6 + (WIDTH - 12) * (value - low) / max(high - low, 1e-9):.1f}"

    parts = [
        f'<text x="{left}" y="{TOP - 22}" font-weight="bold">{escape(title)}</text>',
        f'<path d="M{left} {bottom}h{WIDTH}" stroke="#9ca3af"/>',
        f'<text x="{left}" y="{bottom + 14}">{low:.1f}</text>',
        f'<text x="{left + WIDTH}" y="{bottom + 14}" text-anchor="end">{high:.1f}</text>',
    ]
    for value, colour in zip(dashes.values(), COLOURS, strict=False):
        parts.append(f'<path d="M{at(value)} {TOP - 8}V{bottom}" stroke="{colour}" stroke-dasharray="4 3"/>')
    for row, each in enumerate(kinds.values()):
        y = TOP + ROW * (row + 0.5)
        parts += [f'<circle cx="{at(value)}" cy="{y}" r="3.5" fill="#1d4ed8" opacity="0.55"/>' for value in each]
        if each:
            parts.append(f'<path d="M{at(statistics.mean(each))} {y - 8}v16" stroke="#111827" stroke-width="2"/>')
    return "\n".join(parts)
