"""How many prototypes of each head live, and what they tell: the first thing that dies in a collapse.

Everything is of the probe, a few images that stayed the same (health/probe.py): `used` and `information` are relative
to what so few images can show, so a head of 65,536 prototypes is not dead because 256 images choose 200 of them.
"""

import re
from collections.abc import Mapping

from dinokit.visuals.chart import Course, Series, line_chart
from dinokit.visuals.page import paragraph, text
from dinokit.visuals.plot import PERCENT, number
from dinokit.visuals.record import Record

SIGNS = {  # of a head: name in the log -> name on the chart, colour
    "used": ("in use", 0),
    "information": ("information", 4),
    "target_entropy_share": ("target entropy", 3),
    "top": ("largest", 1),
}
HEADS = 24  # that are drawn
TITLE = "Prototypes in use"
MORE = "{count} more heads are among the numbers of this page."
SHARES = (
    "Of the images that were looked at: in use is the share of prototypes that are the first choice of some image, of "
    "no more of them than there are images; largest, the share of images that choose the most popular one; "
    "information, what a prototype tells of an image; target entropy, how undecided the teacher is. Healthy: many in "
    "use, the largest small, information well above 0, target entropy below 100 % and above 0 %."
)


def heads(record: Record) -> list[str]:
    """Name the heads whose prototypes were looked at."""
    found = (re.fullmatch(r"health/(.+)/used", name) for name in record.curves)
    return [match[1] for match in found if match]


def told_here(name: str) -> bool:
    """Tell whether a quantity of the log is drawn here."""
    return any(re.fullmatch(rf"health/.+/{sign}", name) for sign in (*SIGNS, "target_entropy"))


def prototypes(record: Record, course: Course) -> str:
    """Show for each head how many live, and how that went; empty if nothing was looked at."""
    found = heads(record)
    if not found:
        return ""
    drawn = found[:HEADS]
    bars = "".join(_bar(record, head) for head in drawn)
    charts = "".join(_chart(record, head, course) for head in drawn)
    shown = f'<h3>{TITLE}</h3><ul class="bars counts" aria-label="{TITLE}">{bars}</ul>'
    more = paragraph(MORE.format(count=number(len(found) - HEADS))) if len(found) > HEADS else ""
    told = f'<div class="result" data-save="{TITLE}">{shown}</div>{paragraph(SHARES)}'
    return f'{told}<div class="pairs">{charts}</div>{more}'


def _bar(record: Record, head: str) -> str:
    share = 100 * record.curve(f"health/{head}/used")[1][-1]
    bar = f'<i class="s0"><u style="width:{min(max(share, 0), 100):.2f}%"></u></i>'
    return f'<li><span title="{text(head)}">{text(head)}</span>{bar}<b>{share:.0f} %</b></li>'


def _chart(record: Record, head: str, course: Course) -> str:
    curves = []
    for sign, (name, colour) in SIGNS.items():
        x, y = record.curve(f"health/{head}/{sign}")
        curves.append(Series(name, x, [100 * each for each in y], colour))
    count = _prototypes(record, head)
    title = f"Prototypes of {head}" + ("" if count is None else f", {number(count)}")
    return line_chart(curves, title=title, unit=PERCENT, course=course)


def _prototypes(record: Record, head: str) -> int | None:
    """Return how many prototypes a head has, by the settings."""
    objectives = record.setting("experiment.objectives")
    own = objectives.get(head.split("/")[-1]) if isinstance(objectives, Mapping) else None
    count = own["head"].get("prototypes") if isinstance(own, Mapping) and isinstance(own.get("head"), Mapping) else None
    return count if isinstance(count, int) else None
