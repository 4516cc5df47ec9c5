"""How many prototypes of each head live, and what they tell: the first thing that dies in a collapse.

Everything is of the probe, a few images that stayed the same (health/vitals.py): `used` and `information` are relative
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
SHARES = (
    "Of the images that were looked at: in use is the share of prototypes that are the first choice of some image, of "
    "no more of them than there are images; largest, the share of images that choose the most popular one; "
    "information, what a prototype tells of an image; target entropy, how undecided the teacher is. Healthy: many in "
    "use, the largest small, information well above 0, target entropy below 100 % and above 0 %."
)


def heads(record: Record) -> list[str]:
    """Name the heads whose prototypes were looked at."""
    found = (re.fullmatch(r"health/(.+)/used", name) for name in record.quantities())
    return [match[1] for match in found if match]


def told_here(name: str) -> bool:
    """Tell whether a quantity of the log is drawn here."""
    return any(re.fullmatch(rf"health/.+/{sign}", name) for sign in (*SIGNS, "target_entropy"))


def prototypes(record: Record, course: Course) -> str:
    """Show for each head how many live, and how that went; empty if nothing was looked at."""
    found = heads(record)
    if not found:
        return ""
    bars, charts = "", ""
    for head in found:
        share = record.curve(f"health/{head}/used")[1][-1]
        count = _prototypes(record, head)
        width = min(max(100 * share, 0), 100)
        bar = f'<i class="s0"><u style="width:{width:.2f}%"></u></i>'
        bars += f'<li><span title="{text(head)}">{text(head)}</span>{bar}<b>{100 * share:.0f} %</b></li>'
        curves = []
        for sign, (name, colour) in SIGNS.items():
            x, y = record.curve(f"health/{head}/{sign}")
            curves.append(Series(name, x, [100 * each for each in y], colour))
        charts += line_chart(
            curves, title=f"Prototypes of {head}{f', {number(count)}' if count else ''}", unit=PERCENT, course=course
        )
    shown = f'<ul class="bars counts" aria-label="Prototypes in use">{bars}</ul>'
    return (
        f'<div class="result" data-save="Prototypes in use"><h3>Prototypes in use</h3>{shown}</div>'
        + paragraph(SHARES)
        + f'<div class="pairs">{charts}</div>'
    )


def _prototypes(record: Record, head: str) -> int | None:
    """Return how many prototypes a head has, by the settings."""
    objectives = record.setting("experiment.objectives")
    own = objectives.get(head.split("/")[-1]) if isinstance(objectives, Mapping) else None
    count = own["head"].get("prototypes") if isinstance(own, Mapping) and isinstance(own.get("head"), Mapping) else None
    return count if isinstance(count, int) else None
