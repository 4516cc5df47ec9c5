"""What commands print: tables on standard output."""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from rich.console import Console
from rich.table import Table

WIDEST = 4096  # letters of a line in a file


def print_table(
    title: str, rows: Mapping[str, Mapping[str, float]], units: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Print a column per result.

    Args:
        units: the beginning of a measure's name, up to "@" or "/" -> what is written behind its numbers.
    """
    table = _table(title, ["", *rows])
    for measure in next(iter(rows.values())):
        unit = units.get(re.split("[@/]", measure)[0], "")
        table.add_row(measure, *(f"{shown(row[measure], unit=unit)}" for row in rows.values()))
    _printed(table)


def print_rows(title: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table as it is, as wide as it needs."""
    table = _table(title, head)
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    _printed(table)


def _table(title: str, head: Sequence[str]) -> Table:
    """Begin a table of which nothing is cut off, however narrow the terminal."""
    table = Table(title=title, box=None)
    for name in head:
        table.add_column(name, overflow="fold")
    return table


def _printed(table: Table) -> None:
    """Print a table; into a file or a pipe as wide as it needs."""
    console = Console(markup=False, emoji=False, highlight=False)  # names of folders may look like markup
    if not console.is_terminal:
        console.width = max(
            console.width, console.measure(table, options=console.options.update(max_width=WIDEST)).maximum
        )
    console.print(table)


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
