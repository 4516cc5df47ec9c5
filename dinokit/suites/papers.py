"""What the papers report: numbers of released weights, found by the name of the model and the protocol.

`comparators.csv` says which names stand for each model of the papers, `papers.md` has the numbers, as its tables. A
number is shown beside a measured one only if model, protocol, set and measure are the same; who measured at how many
tokens is said with it.
"""

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from dinokit.checkpoints import hub
from dinokit.suites import table
from dinokit.suites.columns import STRIDE
from dinokit.suites.table import Line

SIDES = (256, 1024)  # tokens at which the papers compare


@dataclass(frozen=True)
class Comparator:
    """A model of the papers."""

    model: str  # as the papers call it
    patch: int | None
    names: tuple[str, ...]  # that `--models` takes
    note: str

    def side(self, tokens: int) -> int | None:
        """Return the pixels of a square of so many tokens."""
        return None if self.patch is None else round(tokens**0.5) * min(self.patch, STRIDE)


@dataclass(frozen=True)
class Published:
    """A number of a paper."""

    model: str
    protocol: str
    data: str  # name of the set
    number: str  # its name; empty: the one that counts on the set
    value: float
    source: str  # paper and table
    tokens: str  # of an image; empty: not one number


@cache
def comparators() -> tuple[Comparator, ...]:
    """Read who stands for whom."""
    lines = csv.DictReader(_text("comparators.csv").splitlines())
    return tuple(
        Comparator(
            line["model"], int(line["patch"]) if line["patch"] else None, tuple(line["names"].split()), line["note"]
        )
        for line in lines
    )


def model_of(name: str) -> str:
    """Return what the papers call the weights of a name or a file; empty if they have no such."""
    release = hub.of_file(Path(name))
    known = hub.named(name) or next((each for each, one in hub.RELEASES.items() if one is release), name)
    return next((one.model for one in comparators() if known in one.names), "")


def published(name: str, line: Line, data: str, numbers: Mapping[str, float]) -> list[dict[str, object]]:
    """Return the published numbers that stand beside measured ones, as results say them.

    Args:
        name: of the model, as it was asked for.
        line: of the suite; one that looks at some of the images only is no published protocol.
        data: name of the set.
        numbers: the measured ones.
    """
    model = model_of(name)
    if not model or "limit" in line.settings:
        return []
    told = []
    for one in tables():
        number = one.number or table.headline(line.task, numbers)
        if (one.model, one.protocol, one.data) == (model, line.protocol, data) and number in numbers:
            told.append({"number": number, "value": one.value, "source": one.source, "tokens": one.tokens})
    return told


@cache
def tables() -> tuple[Published, ...]:
    """Read all published numbers."""
    return tuple(_read(_text("papers.md")))


def _read(text: str) -> Iterator[Published]:
    for section in text.split("\n## ")[1:]:
        title, *lines = section.splitlines()
        protocol, source, tokens = [*title.split(" | "), "", ""][:3]
        head, _, *rows = [
            [cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")
        ]
        for model, *values in rows:
            for column, value in zip(head[1:], values, strict=True):
                data, _, number = column.partition(" ")
                if value:
                    yield Published(model, protocol, data, number, float(value), source, re.sub(r"\D", "", tokens))


def _text(name: str) -> str:
    return (files("dinokit.suites") / name).read_text(encoding="utf-8")


def table_of_comparators() -> str:
    """Return docs/comparators.md's table: who stands for whom, and the sides at equal numbers of tokens."""
    head = ["model", "patch", *(f"side at {tokens} tokens" for tokens in SIDES), "names", "remarks"]
    rows = [head, ["---"] * len(head)]
    for one in comparators():
        sides = [str(one.side(tokens) or "") for tokens in SIDES]
        names = " ".join(f"`{name}`" for name in one.names)
        rows.append([one.model, str(one.patch or ""), *sides, names, one.note])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
