"""The results of a suite in words: numbers with their intervals, which is the best, and all of it as Markdown.

Everything is a function of results.json (suites/cells.py): a table per task, a row per set, a column per model.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from dinokit.visuals.plot import number as counted

FILE = "results.md"
INTERVALS = "In brackets, where there is one: the 95 % bootstrap interval over the images or queries."
Cell = Mapping[str, Any]
Rows = tuple[Sequence[str], list[list[object]]]  # head and rows of a table
PAPERS = "A number after a slash is published for the same weights, protocol and set; its source stands below."


def markdown(results: Mapping[str, Any]) -> str:
    """Write what was measured, beside it what is published, then what is missing or failed."""
    parts = [f"# Suite {results['suite']}", _table(*models(results))]
    for title in titles(results):
        parts += [f"## {title}", _table(*scores(results, title, bold="**"))]
    parts += [f"{INTERVALS} {PAPERS} Of a row the best is bold."]
    for heading, (head, rows) in (("Published", published(results)), ("Chosen", chosen(results))):
        parts += [f"## {heading}", _table(head, rows)] if rows else []
    for heading, lines in (("Missing", results["missing"]), ("Failed", failures(results))):
        parts += [f"## {heading}", "\n".join(f"- {line}" for line in lines)] if lines else []
    return "\n\n".join(parts) + "\n"


def titles(results: Mapping[str, Any]) -> list[str]:
    """Name the tasks of which there are numbers."""
    return list(dict.fromkeys(cell["task"] for cell in results["cells"] if "numbers" in cell))


def rows_of(results: Mapping[str, Any], title: str) -> dict[str, dict[str, Cell]]:
    """Return the cells of a task with numbers, by set and model, the models in the order of their columns."""
    found = dict[str, dict[str, Cell]]()
    places = {name: place for place, name in enumerate(results["models"])}
    cells = [cell for cell in results["cells"] if cell["task"] == title and "numbers" in cell]
    for cell in sorted(cells, key=lambda cell: places[cell["model"]]):
        found.setdefault(cell["set"], {})[cell["model"]] = cell
    return found


def scores(results: Mapping[str, Any], title: str, *, bold: str = "") -> Rows:
    """Return the table of a task."""
    names = list(results["models"])
    rows = []
    for data, row in rows_of(results, title).items():
        told = {name: written(cell) for name, cell in row.items()}
        told |= {name: f"{bold}{told[name]}{bold}" for name in best_of(row)}
        rows.append([data, next(iter(row.values()))["headline"], *(told.get(name, "") for name in names)])
    return ["set", "measure", *(results["models"][name]["shown"] for name in names)], rows


def models(results: Mapping[str, Any]) -> Rows:
    """Return what the columns are: whose weights, and what they see of an image."""
    head = ["model", "patch", "side in px", "tokens of an image", "parameters in M", "seconds"]
    rows = []
    for name, about in results["models"].items():
        seconds = sum(cell.get("seconds", 0) for cell in results["cells"] if cell["model"] == name)
        seen = [about["patch"], about["side"] or "its own", about["tokens"] or "its own"]
        rows.append([about["shown"], *seen, f"{about['parameters'] / 1e6:.1f}", counted(round(seconds))])
    return head, rows


def published(results: Mapping[str, Any]) -> Rows:
    """Return all published numbers that stand beside a measured one, with their sources."""
    head = ["model", "task", "set", "number", "measured", "published", "source", "tokens"]
    rows = [
        [
            *(results["models"][cell["model"]]["shown"], cell["task"], cell["set"], one["number"]),
            *(
                figure(cell["numbers"][one["number"]], lower=cell["lower"]),
                f"{one['value']:g}",
                one["source"],
                one["tokens"],
            ),
        ]
        for cell in results["cells"]
        for one in cell.get("published", ())
    ]
    return head, rows


def chosen(results: Mapping[str, Any]) -> Rows:
    """Return the hyper-parameters that were chosen, the seeds, and how long each cell took."""
    rows = []
    for cell in (cell for cell in results["cells"] if "numbers" in cell):
        picked = ", ".join(f"{name.removeprefix('best_')} {value:g}" for name, value in cell["chosen"].items())
        seed = "" if cell["seed"] is None else cell["seed"]
        shown = results["models"][cell["model"]]["shown"]
        rows.append([shown, cell["task"], cell["set"], picked, seed, f"{cell['seconds']:.1f}"])
    return ["model", "task", "set", "chosen", "seed", "seconds"], rows


def failures(results: Mapping[str, Any]) -> list[str]:
    """Say what failed, a line for all that failed of a model by the same error."""
    alike = dict[tuple[str, str], list[str]]()
    for cell in (cell for cell in results["cells"] if "error" in cell):
        alike.setdefault((cell["model"], cell["error"]), []).append(f"{cell['task']} on {cell['set']}")
    more = {key: f" and {len(places) - 1} more" * (len(places) > 1) for key, places in alike.items()}
    return [f"{places[0]}{more[model, error]}, {model}: {error}" for (model, error), places in alike.items()]


def best_of(row: Mapping[str, Cell]) -> list[str]:
    """Name the models of the best number of a row, which several may share."""
    values = {name: cell["numbers"][cell["headline"]] for name, cell in row.items()}
    lower = next(iter(row.values()))["lower"]
    best = (min if lower else max)(values.values())
    return [name for name, value in values.items() if value == best]


def written(cell: Cell) -> str:
    """Write the number of a cell with its interval and what is published."""
    measure = cell["headline"]
    ends = cell["intervals"].get(measure)
    between = "" if ends is None else f" ({ends[0]:.1f}\N{EN DASH}{ends[1]:.1f})"
    papers = [f"{one['value']:g}" for one in cell["published"] if one["number"] == measure]
    return " / ".join([f"{figure(cell['numbers'][measure], lower=cell['lower'])}{between}", *papers])


def figure(value: float, *, lower: bool) -> str:
    """Write a percentage with one decimal, an error in metres, of which less is better, with three."""
    return f"{value:.3f}" if lower and abs(value) < 10 else f"{value:.1f}"


def _table(head: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])
