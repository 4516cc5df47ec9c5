"""The rows of a sheet as a figure of matplotlib (extra `look`), whose text is text: for .pdf, .svg, and notebooks.

Neither a display nor pyplot is needed, and no setting outlives a call.
"""

from collections.abc import Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

from dinokit.core.messages import library
from dinokit.looks.sheet import Row

ENDINGS = (".pdf", ".svg")  # of what only a figure can be
DOTS = 100  # pixels of a sheet in an inch
GAP, LINE, POINTS = 10, 26, 9  # pixels between pictures, and of a line of text; its size


def figure(rows: Sequence[Row]) -> Any:
    """Return a matplotlib Figure."""
    drawn = library("matplotlib.figure", extra="look").Figure
    width = max(sum(cell.size[0] + GAP for cell in row) - GAP for row in rows)
    heights = [max(cell.size[1] for cell in row) + LINE for row in rows]
    height = sum(heights)
    page, top = drawn(figsize=(width / DOTS, height / DOTS), dpi=DOTS), 0
    for row, high in zip(rows, heights):
        left = 0
        for cell in row:
            wide, tall = cell.size
            axes = page.add_axes((left / width, 1 - (top + LINE + tall) / height, wide / width, tall / height))
            axes.imshow(cell.colours, interpolation="nearest", aspect="auto")
            axes.set_axis_off()
            room = max(int(wide / (0.62 * POINTS * DOTS / 72)), 4)  # letters
            words = cell.caption if len(cell.caption) <= room else "..." + cell.caption[3 - room :]
            page.text(left / width, 1 - (top + LINE - 6) / height, words, fontsize=POINTS, parse_math=False)
            left += wide + GAP
        top += high
    page._repr_png_ = partial(_png, page)  # a notebook draws the figures of pyplot alone by itself
    return page


def _png(page: Any) -> bytes:
    kept = BytesIO()
    page.savefig(kept, format="png")
    return kept.getvalue()


def written() -> set[str]:
    """Return the endings of the files that a figure can be."""
    canvas = library("matplotlib.backend_bases", extra="look").FigureCanvasBase
    return {f".{ending}" for ending in canvas.filetypes}


def save(page: Any, place: Path, *, ending: str) -> None:
    """Write a figure: fonts in the file, and the same bytes for the same figure."""
    settings = {"svg.fonttype": "none", "svg.hashsalt": "dinokit", "pdf.fonttype": 42}
    dates = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}
    with library("matplotlib", extra="look").rc_context(settings):
        page.savefig(place, format=ending.removeprefix("."), metadata=dates.get(ending))
