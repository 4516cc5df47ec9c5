"""What commands print: tables on standard output."""

import re
from collections.abc import Mapping
from types import MappingProxyType

from rich.console import Console
from rich.table import Table

from dinokit.core.errors import LISTED
from dinokit.core.log import info
from dinokit.run.replay import Replay
from dinokit.sources.check import Check, Stats


def print_check(found: Check) -> None:
    """Print what is in a source and what is broken."""
    table = Table(show_header=False, title=f"{found.source}: {found.images:,} of {found.total:,} images", box=None)
    for name in ("width", "height"):
        spread = getattr(found, name)
        table.add_row(name, f"{spread.least} to {spread.largest} px, median {spread.median}" if spread else "-")
    for name in ("short_side", "formats", "modes", "channels", "depths"):
        counts = getattr(found, name)
        table.add_row(name.replace("_", " "), "   ".join(f"{key}: {count:,}" for key, count in counts.items()) or "-")
    if found.values is not None:
        low, high = found.values
        deep = "float32" in found.depths and high < 1 / 8
        hint = ": too dark? fewer bits than the files have? then --data.white 4095 or so" if deep else ""
        hint = ": if 1 is not white, --data.white says what is" if high > 2 else hint
        table.add_row("values", f"{low:.4g} to {high:.4g} of white{hint}")
    table.add_row("duplicates", f"{found.duplicates:,}")
    table.add_row("unreadable", f"{len(found.unreadable):,}")
    table.add_row("speed", f"{found.images_per_second:,.0f} images/s at full size")
    table.add_row("one pass", f"{found.seconds_per_pass:,.0f} s")
    Console().print(table)
    for remark in found.remarks:
        print(remark)
    for group in found.duplicate_groups[:LISTED]:
        print(f"the same: {', '.join(group[:LISTED])}{', ...' if len(group) > LISTED else ''}")
    if len(found.duplicate_groups) > LISTED:
        print(f"... and {len(found.duplicate_groups) - LISTED:,} more groups of the same; --out FILE.json lists them")
    for line in found.unreadable[:LISTED]:
        print(f"{line.key}: {line.reason}")
    if len(found.unreadable) > LISTED:
        print(f"... and {len(found.unreadable) - LISTED:,} more; --out FILE.json lists all")


def print_stats(found: Stats) -> None:
    """Print the statistics of every channel."""
    values = {name: [float(f"{each:.6g}") for each in getattr(found, name)] for name in ("mean", "std", "low", "high")}
    Console().print(
        f"{found.images:,} images, {found.bad:,} bad ones left out; values {values['low']} to {values['high']}"
    )
    print(f"--data.pixels.mean '{values['mean']}' --data.pixels.std '{values['std']}'")


def print_table(
    title: str, rows: Mapping[str, Mapping[str, float]], units: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Print a column per result.

    Args:
        units: the beginning of a measure's name, up to "@" or "/" -> what is written behind its numbers.
    """
    table = Table("", *rows, title=title, box=None)
    for measure in next(iter(rows.values())):
        unit = units.get(re.split("[@/]", measure)[0], "")
        table.add_row(measure, *(f"{shown(row[measure], unit=unit)}" for row in rows.values()))
    Console().print(table)


def outdone(rows: Mapping[str, Mapping[str, float]], units: Mapping[str, str]) -> str:
    """Say which columns beat the first in its first measure; empty if none does, or that is no percentage."""
    (model, own), *rivals = rows.items()
    measure = next(iter(own))
    better = [name for name, row in rivals if row.get(measure, 0) > own[measure]]
    if not better or units.get(re.split("[@/]", measure)[0]) != "%":
        return ""
    verb = "does" if len(better) == 1 else "do"
    return f"{' and '.join(better)} {verb} better than {model} in {measure}: on this data these features add nothing"


def shown(value: float, *, unit: str = "") -> str:
    """Return a number with two decimals and its unit; where these would be 0, its first two digits; a count whole."""
    if not unit and value >= 1 and value == int(value):
        return f"{int(value):,}"
    return f"{value:.2g}" if 0 < abs(value) < 0.01 else " ".join(filter(None, (f"{value:.2f}", unit)))


def print_replay(found: Replay) -> None:
    """Print what a step looks like from within."""
    print_table(f"step {found.step}, trained on from step {found.start}", {"value": found.report.values})
    crops = Table("image", "lowest", "mean", "highest", "not finite", title="crops, normalised", box=None)
    for each in found.crops:
        crops.add_row(each.image, *(f"{x:.3f}" for x in (each.lowest, each.mean, each.highest)), str(each.odd))
    Console().print(crops)
    info(f"first odd output: {found.first or 'none'}")
    info(f"odd gradients: {', '.join(found.parameters[:LISTED]) or 'none'}")
    info(f"skipped: {found.report.fault}" if found.report.fault else "taken: loss and gradients are finite")
