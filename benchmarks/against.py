"""Today's build against an earlier one, and beside its peers: the same work by turns, the table of issue 23.

    python benchmarks/against.py OLD_PYTHON [--rows demo 'features s *' ...] [--rounds 5] [--threads 2]
                                 [--photos FOLDER] [--lightly PYTHON] [--dtypes fp32 bf16] [--whole SEED ...]

OLD_PYTHON is the interpreter of an environment that has the earlier dinokit; today's is the one that runs this. Every
side of a row is a process of its own, and they take turns, round by round: old, today, ratio are medians, and the ratio
of them. "wanted" is of issue 23: of the ratio, or of today's figure where it says so in its unit or is a share of a
peer's. Rows (benchmarks/rows):

    demo ... gram memory    one step of a training on random crops
    training RECIPE         steps x seconds of a step; with --whole trained, too, once for each seed
    fast RECIPE             the same before the Gram stage, of today's recipe with small crops first
    views                   images/s on one core; --photos: a folder of JPEGs, --lightly: a python with lightly-train
    features MODEL SIZE BATCH   images/s in equal dtype, beside the faster of timm and transformers
    ranks                   two ranks beside one process, plain and sharded
    first line              seconds from `dinokit pretrain demo` to its first line of progress

What an option is missing for says "not measured", and so does a row that fails; the others go on.
"""

import argparse
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path

from rows import features, ranks, start, steps, training, views
from rows.line import BUILDS, Builds, Line, Row, said

ROWS: Mapping[str, Row] = {
    **steps.ROWS, **training.ROWS, **views.ROWS, **features.ROWS, **ranks.ROWS, **start.ROWS,
}  # fmt: skip
WHERE = "import dinokit; print(dinokit.__file__)"


def main() -> None:
    """Print lines row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=_interpreter, metavar="OLD_PYTHON", help="of an environment with the earlier build")
    parser.add_argument("--rows", nargs="+", default=["*"], help="names or patterns; all")
    parser.add_argument("--rounds", type=_positive, default=Builds.rounds)
    parser.add_argument(
        "--threads", type=_positive, default=os.cpu_count() or 1, help="of each side but those of views"
    )
    parser.add_argument("--photos", type=_folder)
    parser.add_argument("--lightly", type=_interpreter, metavar="PYTHON")
    parser.add_argument("--dtypes", nargs="+", choices=["fp32", "bf16"], default=["fp32"], help="of features")
    parser.add_argument("--whole", nargs="+", type=int, default=[], metavar="SEED", help="train the recipes, too")
    given = parser.parse_args()
    builds = Builds(
        old=given.old,
        rounds=given.rounds,
        threads=given.threads,
        dtypes=given.dtypes,
        photos=given.photos,
        lightly=given.lightly,
        seeds=given.whole,
    )
    rows = chosen(given.rows)
    _say_what_is_compared(builds)
    print("row | measured | old | today | today / old | wanted")
    for name in rows:
        for line in measured(name, builds):
            print(f"{name} | {cells(line)}", flush=True)


def chosen(patterns: Sequence[str]) -> list[str]:
    """Return the names of the rows that are asked for, in the order of the table."""
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in ROWS):
            raise SystemExit(f"no row is called {pattern!r}; rows are {', '.join(ROWS)}")
    return [name for name in ROWS if any(fnmatchcase(name, pattern) for pattern in patterns)]


def measured(name: str, builds: Builds) -> Iterator[Line]:
    """Make the lines of a row; one that fails ends in a line that says why."""
    try:
        yield from ROWS[name](builds)
    except (SystemExit, OSError, ValueError) as error:  # a side has ended, or has said what is no figure
        yield Line(measured="-", of={}, missing=" ".join(str(error).split()))


def cells(line: Line) -> str:
    """Write a line of the table but for its row's name."""
    figures = [f"not measured: {line.missing}", "", ""]
    if line.of:
        old, today = (line.of[build] for build in BUILDS)
        figures = [f"{old:.4g}", f"{today:.4g}", f"{today / old:.2f}"]
    return " | ".join([line.measured, *figures, line.wanted])


def _positive(word: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word} is not a whole number from 1 on")
    return int(word)


def _folder(word: str) -> Path:
    if not any(Path(word).glob("*")):
        raise argparse.ArgumentTypeError(f"{word} is not a folder with files")
    return Path(word)


def _interpreter(word: str) -> str:
    if shutil.which(word) is None:
        raise argparse.ArgumentTypeError(f"{word} is not a program that can be run")
    return word


def where(builds: Builds, build: str) -> list[str]:
    """Return the command that says what a build is, which is not imported from where the command is given."""
    return builds.command(build, "-P", "-c", WHERE)


def _say_what_is_compared(builds: Builds) -> None:
    found = {build: said(where(builds, build)) for build in BUILDS}
    if found["old"] == found["today"]:
        raise SystemExit(f"both interpreters import {found['old']}; expected an earlier build beside today's")
    print(f"old: {found['old']}; today: {found['today']}")
    print(f"torch {version('torch')}, {builds.threads} threads, {builds.rounds} rounds")


if __name__ == "__main__":
    main()
