"""What commands print: tables on standard output."""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from rich.console import Console
from rich.table import Table


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


def print_rows(title: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table as it is, as wide as it needs."""
    table = Table(*head, title=title, box=None)
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    console = Console()
    console.print(table, width=max(console.width, 24 * len(head)) if not console.is_terminal else None)


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
