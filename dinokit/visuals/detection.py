"""A detector as one HTML page: how well it finds what, how it learnt, its best, worst and most confused pictures.

Reads what `evaluate detection --save` left in a folder: mistakes.json, and training.jsonl if it was trained there. The
pictures are read from where they were; of one that is gone the boxes are shown alone. What a box or an object is called
is defined in metrics/mistakes.py.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dinokit.core.files import read_json, read_jsonl, write_text
from dinokit.visuals.boxed import figure, legend
from dinokit.visuals.chart import Series, line_chart
from dinokit.visuals.page import Section, details, document, paragraph, table, text
from dinokit.visuals.plot import PERCENT, number, written

FILE, MISTAKES, CURVE = "index.html", "mistakes.json", "training.jsonl"
BARS = 12  # classes of each end that are drawn, where there are more than twice as many
LISTED = 12  # pairs of classes
RECALL = 50  # where the legend reads the curves
MEANINGS = {
    "AP": "all",
    "AP50": "IoU 0.5",
    "AP75": "IoU 0.75",
    "APs": "small",
    "APm": "medium",
    "APl": "large",
    "APr": "rare",
    "APc": "common",
    "APf": "frequent",
}
SIZES = (
    "AP is the mean over classes and over IoU 0.50, 0.55, ... 0.95. Small objects have less than 32 x 32 pixels, large "
    "ones more than 96 x 96. The line on a bar is the 95 % bootstrap over the images."
)
BY_HEART = "Measured on the images that it has learnt, by heart: only other images say how good it is."
BY_CLASS = "The average precision of each class, and what became of its objects and of the boxes that were called so."
CURVES = (
    "The precision of the boxes down to the score by which so many of the objects are found, averaged over the "
    "classes; the legend reads it where half of the objects are found."
)
TERMS = (
    "The loss is the sum of class, boxes (1 - GIoU) and deltas of the queries that answer alone for an object, of all "
    "layers; of many queries that answer together; and of the proposals that both begin from."
)
KINDS = ("right", "double", "confused", "loose", "false alarms")
SHARE = "The share is of the objects of the class that was there; two boxes may take one object for another."
BEST = (
    "Quality is the sum of the IoU of right boxes, divided by right + (wrong boxes + objects not found) / 2: the "
    "panoptic quality, of all classes at once. 1 is perfect. Of equal ones those with more objects come first."
)
WORST = "The lowest quality; of equal ones those with more mistakes come first."
CONFUSED = (
    "A box is confused if the object that it overlaps most, by an IoU of at least 0.5, is of another class. First come "
    "the pictures whose confused boxes have the largest scores, summed."
)


def write_pages(folder: Path) -> list[Path]:
    """Write the page of a folder, and of each in it that holds a set of its own; return them."""
    found = sorted(path.parent for path in (*folder.glob(MISTAKES), *folder.glob(f"*/{MISTAKES}")))
    return [write_page(one) for one in found]


def write_page(folder: Path) -> Path:
    """Write the page of a folder with mistakes.json, and return its path."""
    told, curve = read_json(folder / MISTAKES), read_jsonl(folder / CURVE)
    path = folder / FILE
    page = document(
        title=f"{folder.resolve().name} · dinokit",
        header=_header(told, folder),
        sections=(
            Section("Classes", "What does it find?", _classes(told)),
            Section("Curves", "How sure is it, and how did it learn?", _curves(told, curve)),
            Section("Mistakes", "What does it get wrong?", _mistakes(told)),
            Section("Best", "The best pictures", _pictures(told, "best", BEST)),
            Section("Worst", "The worst pictures", _pictures(told, "worst", WORST)),
            Section("Confused", "The most confused pictures", _pictures(told, "confused", CONFUSED)),
            Section("Numbers", "All numbers", "<p data-numbers>What this page shows, as JSON.</p>"),
        ),
        numbers={name: value for name, value in told.items() if name != "shown"} | {"curve": curve},
    )
    write_text(path, page)
    return path


def _header(told: Mapping[str, Any], folder: Path) -> str:
    """Say in the first screen how well it finds."""
    numbers, ends = told["numbers"], told["intervals"].get("AP")
    real = [name for name, each in zip(told["classes"], told["objects"], strict=True) if sum(each)]
    between = "" if ends is None else f" (95{PERCENT}: {ends[0]:.1f} to {ends[1]:.1f})"
    headline = f"AP {numbers['AP']:.1f}{PERCENT}{between}"
    size = f"{_many(len(real), 'class', 'es')} on {_many(told['images'], 'image', 's')}, {told['split'] or 'all'} of "
    size += told["data"]
    bars = "".join(
        _bar(f"{name}, {MEANINGS[name]}", value / 100, f"{value:.1f}", told["intervals"].get(name))
        for name, value in numbers.items()
        if name in MEANINGS
    )
    bars = f'<ul class="bars models" aria-label="Average precision">{bars}</ul>'
    result = f'<div class="result" data-save="Average precision">{paragraph(headline, kind="headline")}{bars}</div>'
    return "".join(
        [
            paragraph("dinokit · detection", kind="eyebrow"),
            f"<h1>{text(folder.resolve().name)}</h1>",
            paragraph(size, kind="lead"),
            "" if told["held_out"] else paragraph(BY_HEART, kind="notice"),
            result,
            paragraph(SIZES, kind="lead"),
        ]
    )


def _classes(told: Mapping[str, Any]) -> str:
    """Draw the classes that are found best and worst, and tabulate all."""
    rows = sorted(_rows(told), key=lambda row: -row[1])
    if not rows:
        return ""
    parts = {"All classes": rows}
    if len(rows) > 2 * BARS:
        parts = {"Found best": rows[:BARS], "Found worst": rows[-BARS:]}
    elif len(rows) > BARS:
        half = -(-len(rows) // 2)
        parts = {"The better half": rows[:half], "The other half": rows[half:]}
    charts = ""
    for title, some in parts.items():
        bars = "".join(_bar(name, value / 100, f"{value:.1f}") for name, value, *_ in some)
        charts += f'<div class="chart" data-save="AP, {title.lower()}"><h3>{title}</h3>'
        charts += f'<ul class="bars models">{bars}</ul></div>'
    head = ["Class", "AP", "Objects", "Found", "Confused", "Missed", "Boxes", "Right", "False alarms"]
    cells = [[name, f"{value:.1f}", *map(number, counted)] for name, value, *counted in rows]
    every = details(f"All {_many(len(rows), 'class', 'es')}", table(head, cells, kind="numbers wide"))
    return f'{paragraph(BY_CLASS)}<div class="pairs">{charts}</div>{every}'


def _rows(told: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Yield each class that there is, with its numbers."""
    columns = (told[name] for name in ("classes", "AP", "objects", "boxes"))
    for name, value, objects, boxes in zip(*columns, strict=True):
        if value is not None and sum(objects):
            yield name, value, sum(objects), *objects, sum(boxes), boxes[0], boxes[-1]


def _curves(told: Mapping[str, Any], curve: Sequence[Mapping[str, Any]]) -> str:
    recalls, charts = list(range(101)), ""
    series = [
        Series(f"IoU {name}", recalls, [100 * value for value in values], colour)
        for (name, values), colour in zip(told["precision"].items(), (0, 1), strict=True)
        if None not in values
    ]
    if series:
        charts = line_chart(series, title="Precision by recall", unit=PERCENT, along="recall", at=RECALL)
    steps = [line["step"] for line in curve if "loss" in line]
    if steps:
        terms = [name for name in ("loss", *sorted(set(curve[-1]) - {"loss"})) if name.startswith("loss")]
        lines = [
            Series(
                name.removeprefix("loss/"),
                [line["step"] for line in curve if name in line],
                [line[name] for line in curve if name in line],
                turn,
                smooth=True,
            )
            for turn, name in enumerate(terms[:6])
        ]
        charts += line_chart(lines, title="Loss in training", log=True)
    note = f"{CURVES} {TERMS}" if steps and "loss/proposals" in curve[-1] else CURVES
    return f'{paragraph(note)}<div class="pairs">{charts}</div>' if charts else ""


def _mistakes(told: Mapping[str, Any]) -> str:
    """Count what became of boxes and objects, and which classes are taken for which."""
    boxes, objects = ([sum(column) for column in zip(*told[name], strict=True)] for name in ("boxes", "objects"))
    why = "by which most is right (the largest F1 at an IoU of 0.5)" if boxes[0] else "for want of a right one the best"
    note = f"Looked at are the boxes with a score of at least {told['least']:.2f}, {why}: "
    note += f"{_many(sum(boxes), 'box', 'es')} for {_many(sum(objects), 'object', 's')}."
    charts = ""
    for title, names, counts in (
        ("Boxes", KINDS, boxes),
        ("Objects", ("found", "taken for another", "missed"), objects),
    ):
        most = max(*counts, 1)
        bars = "".join(
            _bar(name, count / most, number(count), colour=0 if place == 0 else 1)
            for place, (name, count) in enumerate(zip(names, counts, strict=True))
        )
        charts += f'<div class="chart" data-save="{title}"><h3>{title}</h3><ul class="bars models">{bars}</ul></div>'
    names, rows = told["classes"], []
    for truth, said, count in told["confusions"][:LISTED]:
        share = 100 * count / max(sum(told["objects"][truth]), 1)
        rows.append((names[truth], names[said], number(count), written(share, PERCENT)))
    body = f'{paragraph(note)}<div class="pairs">{charts}</div>'
    if rows:
        head = ["There was", "Taken for", "Boxes", "Share"]
        body += f"<h3>Classes that are mixed up most</h3>{paragraph(SHARE)}{table(head, rows, kind='numbers')}"
    return f"{body}<h3>The signs in the pictures</h3>{legend()}"


def _pictures(told: Mapping[str, Any], kind: str, meaning: str) -> str:
    """Show pictures of a kind."""
    known = {one["place"]: one for one in told["shown"]}
    figures = [
        figure(known[place], told["classes"], name=f"{kind} {turn}", anchor=f"{kind}-{turn}")
        for turn, place in enumerate(told[kind], start=1)
    ]
    return f'{paragraph(meaning)}<div class="pairs">{"".join(figures)}</div>' if figures else ""


def _bar(name: str, share: float, value: str, ends: Sequence[float] | None = None, *, colour: int = 0) -> str:
    """Draw a line: its name, a bar with the interval on it, its value."""
    mark = "" if ends is None else f'<s style="left:{ends[0]:.2f}%;width:{ends[1] - ends[0]:.2f}%"></s>'
    bar = f'<i class="s{colour}"><u style="width:{100 * share:.2f}%"></u>{mark}</i>'
    return f'<li><span title="{text(name)}">{text(name)}</span>{bar}<b>{text(value)}</b></li>'


def _many(count: int, word: str, ending: str) -> str:
    return f"{number(count)} {word}{ending * (count != 1)}"
