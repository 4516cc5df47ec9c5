"""A suite as one HTML page: who is the best where, every number with its interval and what is published, and the data.

A function of results.json (suites/cells.py) and of a few pictures of every set, which are read when the page is made;
of a set that is gone there are none.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from dinokit.core.files import write_text
from dinokit.core.messages import BadImage, UserError
from dinokit.images import intensity
from dinokit.images.decode import decode
from dinokit.sources.location import is_image, walk
from dinokit.sources.source import open_source
from dinokit.visuals import scores
from dinokit.visuals.exhibits import tray, trays
from dinokit.visuals.page import Section, data_uri, details, document, paragraph, picture, table, text
from dinokit.visuals.scores import Cell
from dinokit.visuals.tiles import SIDE

FILE = "index.html"
COLOURS, GREY = (0, 1, 3, 4, 5), 2  # of the page's series: of models, of baselines
SHOWN = 6  # pictures of a set
MANY = 100_000  # files of a set among which pictures are chosen
PICTURES = {"images", "JPEGImages", "leftImg8bit"}  # folders of pictures, where others hold masks or depths
MEANINGS = {
    "knn": "Every image takes the label of its nearest neighbours; nothing is trained.",
    "logreg": "A logistic regression on the frozen features; its C is chosen on images that are not measured.",
    "linear": "A linear layer on the frozen features; its rate is chosen on validation images.",
    "attentive": "A small attention over the patches is trained, the backbone is not.",
    "retrieval": "Does an image find the other pictures of the same thing?",
    "segmentation": "A head on the frozen patches names every pixel.",
    "depth": "A head on the frozen patches says how far every pixel is; less is better.",
    "foreground": "Patches of an object are told from those of the background, from a handful of masks.",
    "tracking": "The first mask of each object follows the most similar patches; nothing is trained.",
    "matching": "Does a point look most like its own image in another picture?",
    "discovery": "Which box do the patches alone draw around an object?",
}


def write_page(results: Mapping[str, Any], out: Path) -> Path:
    """Write the page of what results.json says into a folder, and return its path."""
    path = out / FILE
    tasks = scores.titles(results)
    bodies = {title: _task(results, title) for title in tasks}
    page = document(
        title=f"suite {results['suite']} · dinokit",
        header=_header(results),
        sections=(
            *(Section(title[0].upper() + title[1:], f"{title}: which is the best?", bodies[title]) for title in tasks),
            Section("Data", "What was looked at?", _data(results)),
            Section("Missing", "What is missing, what failed?", _missing(results)),
            Section("Models", "What were the models?", _models(results)),
        ),
    )
    write_text(path, page)
    return path


def _header(results: Mapping[str, Any]) -> str:
    """Say in the first screen who won how often."""
    rows = [row for title in scores.titles(results) for row in scores.rows_of(results, title).values()]
    models, compared = results["models"], [row for row in rows if len(row) > 1]
    sets = {cell["set"] for cell in results["cells"]}
    parts = [paragraph(f"dinokit · suite {results['suite']}", kind="eyebrow")]
    parts.append(f"<h1>{text(f'{len(models)} models on {len(sets)} sets')}</h1>")
    size = "each at its own size" if results["tokens"] is None else f"each at {results['tokens']} tokens of an image"
    parts.append(paragraph(f"Frozen features, {size}", kind="lead"))
    if not compared:
        return "".join(parts)
    best = [scores.best_of(row) for row in compared]
    won = Counter(name for names in best for name in names)
    bars = "".join(_bar(models, name, won[name] / len(compared), str(won[name])) for name in models)
    count = max(won.values())
    leaders = [name for name in models if won[name] == count]
    shared = any(len(names) > 1 and leaders[0] in names for names in best)
    told = f"{', '.join(models[name]['shown'] for name in leaders)} {'is' if len(leaders) == 1 else 'are'} the best"
    told += f"{', alone or with others,' * shared} in {count} of {len(compared)} comparisons."
    bars = f'<ul class="bars models" aria-label="Comparisons won">{bars}</ul>'
    return "".join(
        [*parts, f'<div class="result" data-save="Comparisons won">{paragraph(told, kind="headline")}{bars}</div>']
    )


def _task(results: Mapping[str, Any], title: str) -> str:
    """Draw a task set by set, then tabulate it."""
    head, rows = scores.scores(results, title)
    charts = "".join(_chart(results, data, row) for data, row in scores.rows_of(results, title).items())
    meaning = MEANINGS.get(title.split()[0], "")
    body = f'<div class="charts">{charts}</div>{table(head, rows, kind="numbers wide")}'
    return paragraph(f"{meaning} {scores.INTERVALS}".strip()) + body


def _chart(results: Mapping[str, Any], data: str, row: Mapping[str, Cell]) -> str:
    """Draw a number of all models on a set as bars, the longest the largest."""
    first = next(iter(row.values()))
    values = {name: cell["numbers"][cell["headline"]] for name, cell in row.items()}
    longest = max(*values.values(), 1e-9) if first["lower"] else 100.0
    bars = ""
    for name, value in values.items():
        ends = row[name]["intervals"].get(first["headline"])
        between = None if ends is None else (ends[0] / longest, ends[1] / longest)
        bars += _bar(results["models"], name, value / longest, scores.figure(value, lower=first["lower"]), between)
    papers = [
        f"{results['models'][cell['model']]['shown']}: {one['value']:g} published ({one['source']})"
        for cell in row.values()
        for one in cell["published"]
        if one["number"] == cell["headline"]
    ]
    said = "".join(paragraph(line) for line in papers)
    heading = f"{data}, {first['headline']}" + (" (less is better)" if first["lower"] else "")
    name = text(heading)
    bars = f'<ul class="bars models">{bars}</ul>'
    return f'<div class="chart" data-save="{name}"><h3>{name}</h3>{bars}{said}</div>'


def _bar(
    models: Mapping[str, Any], name: str, share: float, value: str, between: tuple[float, float] | None = None
) -> str:
    """Draw a line of a model: its bar, with the interval on it, and its value; baselines are grey."""
    own = [each for each in models if not models[each]["baseline"]]
    colour = GREY if models[name]["baseline"] else COLOURS[own.index(name) % len(COLOURS)]
    mark = (
        "" if between is None else f'<s style="left:{_width(between[0])};width:{_width(between[1] - between[0])}"></s>'
    )
    shown = text(models[name]["shown"])
    bar = f'<i class="s{colour}"><u style="width:{_width(share)}"></u>{mark}</i>'
    return f'<li><span title="{shown}">{shown}</span>{bar}<b>{text(value)}</b></li>'


def _width(share: float) -> str:
    return f"{100 * min(max(share, 0), 1):.2f}%"


def _data(results: Mapping[str, Any]) -> str:
    """Show some pictures of every set."""
    shown = []
    for name, about in results["sets"].items():
        tiles = [f"<figure>{picture(uri, alt=key)}<figcaption></figcaption></figure>" for key, uri in _pictures(about)]
        shown.append(tray(f"{name} · {', '.join(about['kinds'])}", tiles))
    return trays(shown)


def _missing(results: Mapping[str, Any]) -> str:
    """List what the suite would measure if it were there, and what could not be measured."""
    parts = ""
    for heading, lines in (("Not there", results["missing"]), ("Failed", scores.failures(results))):
        items = "".join(f"<li>{text(line)}</li>" for line in lines)
        parts += f"<h3>{heading}</h3><ul>{items}</ul>" if lines else ""
    return parts


def _models(results: Mapping[str, Any]) -> str:
    body = table(*scores.models(results), kind="numbers wide")
    names = [(about["shown"], name, about["licence"] or "") for name, about in results["models"].items()]
    body += details("where they are", table(["Model", "Name", "Licence"], names, kind="wide"))
    published, chosen = scores.published(results), scores.chosen(results)
    if published[1]:
        body += details("all published numbers", table(*published, kind="wide"))
    return body + details("what was chosen: hyper-parameters, seeds, seconds", table(*chosen, kind="wide"))


def _pictures(about: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield name and data of some pictures of a set, evenly spaced."""
    with suppress(UserError, OSError):
        if {"classes", "instances", "robustness"} & set(about["kinds"]):
            source = open_source(about["source"])
            for place in np.linspace(0, len(source) - 1, SHOWN).astype(int).tolist():
                with suppress(BadImage):
                    yield source.key(place), _drawn(source.read(place, min_side=SIDE))
            return
        root = Path(about["source"])
        found = sorted(name for name in islice(walk(root), MANY) if is_image(name))
        within = [name for name in found if PICTURES & set(Path(name).parts)] or found
        for place in np.linspace(0, len(within) - 1, min(SHOWN, len(within))).astype(int).tolist():
            with suppress(BadImage):
                yield within[place], _drawn(decode((root / within[place]).read_bytes(), channels=3))


def _drawn(image: intensity.Image) -> str:
    return data_uri(intensity.for_display(image[None])[0].permute(1, 2, 0), side=SIDE)
