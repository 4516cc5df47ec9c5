"""A run as one HTML page: what ran, how good it is beside honest baselines, how it learned, what it sees.

Reads nothing but the run folder and, for the pictures, the data that its settings name; writes RUN/report.html, which
stays below 10 MB whatever the run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from dinokit.core.files import write_text
from dinokit.core.messages import UserError, reason
from dinokit.visuals import sections
from dinokit.visuals.course import columns, course_of, quality
from dinokit.visuals.evolution import evolve, strips
from dinokit.visuals.gallery import ASKED, Pictures, Stage, choose_pictures, find, photo, without_broken
from dinokit.visuals.numbers import numbers
from dinokit.visuals.page import Section, details, document, paragraph, text
from dinokit.visuals.plot import number
from dinokit.visuals.prototypes import prototypes
from dinokit.visuals.record import Record, read_record
from dinokit.visuals.results import results

FILE = "report.html"
SETTINGS = 200_000  # characters of config.yaml that are shown
FOUND = (
    "The most similar of {count} other images to each query, by the cosine of the CLS features. Look for the kind of "
    "likeness: brightness and outline, which untrained weights see too, or what the thing is. "
    "Queries were drawn with a fixed random seed, not by hand."
)


def write_report(run: Path) -> Path:
    """Write the report of a run, whatever state it is in, and return its path.

    Raises:
        UserError: if the folder is no run or cannot be written to.
    """
    record = read_record(run)
    course = course_of(record, anchors=False)
    settings = f'<pre tabindex="0"><code>{text(record.config_text[:SETTINGS])}</code></pre>'
    seen, found, classes = _pictures(record)
    page = document(
        title=f"{run.resolve().name} · dinokit",
        header=sections.header(record, classes=classes),
        sections=(
            Section("Result", "How good are the features?", sections.measured(record, course)),
            Section("Global and dense", "Whole images against patches", quality(record)),
            Section("Evaluations", "What else was measured?", results(record.path)),
            Section("Patches", "What it sees in a picture", seen),
            Section("Neighbours", "What it finds similar", found),
            Section("Learning", "How it learned", sections.learning(record, course)),
            Section("Prototypes", "How many prototypes live?", prototypes(record, course)),
            Section("Health", "Was it healthy?", sections.health(record, course)),
            Section("Run", "The run", sections.facts_of(record)),
            Section("Bad images", "Images that could not be read", sections.bad_images(record)),
            Section("Settings", "All settings", details("config.yaml", settings)),
            Section("Words", "What the words mean", sections.words(record)),
        ),
        numbers=numbers(record),
    )
    try:
        write_text(run / FILE, page)
    except OSError as error:
        raise UserError(f"cannot write {run / FILE}: {reason(error)}; the run itself is untouched") from error
    return run / FILE


def _pictures(record: Record) -> tuple[str, str, tuple[str, ...]]:
    """Return the parts with pictures, or one that says why there are none, and the classes of the pictures."""
    if not record.checkpoints:
        return paragraph("There are no pictures: the run has no checkpoint yet.", kind="none"), "", ()
    try:
        checkpoints, left_out = without_broken(record.checkpoints)
        last = checkpoints[max(checkpoints)]
        chosen = choose_pictures(str(record.setting("experiment.data.source") or ""), last)
    except UserError as error:
        return paragraph(f"There are no pictures: {error}.", kind="none"), "", ()
    whole, finished = replace(record, checkpoints=checkpoints), record.finished and not left_out
    said = "".join(paragraph(line) for line in left_out)
    patches, found = (part(whole, chosen, finished=finished) for part in (_patches, _neighbours))
    return said + patches, said + found, chosen.shown.classes


def _patches(record: Record, pictures: Pictures, *, finished: bool) -> str:
    """Show what some checkpoints see in each picture."""
    steps = columns(record)
    try:
        seen, marks, left_out = evolve({step: record.checkpoints[step] for step in steps}, pictures)
    except UserError as error:
        return paragraph(f"There are no maps: {error}.", kind="none")
    names = sections.stage_names(steps, finished=finished)
    lines = [*left_out, _newest(steps[-1], names)]
    return "".join(paragraph(line) for line in filter(None, lines)) + strips(pictures, seen, marks, names)


def _neighbours(record: Record, pictures: Pictures, *, finished: bool) -> str:
    """Show which images the untrained, an early and the newest model find most similar to some queries."""
    try:
        stages = [find(record.checkpoints[step], step, pictures) for step in record.stages()]
    except UserError as error:
        return paragraph(f"There are no neighbours: {error}.", kind="none")
    steps = sections.stage_names(record.stages(), finished=finished)
    shown, searched = pictures.shown, pictures.searched
    comparable = shown.labels is not None and searched.labels is not None
    note = FOUND.format(count=number(len(searched.keys))) + f" {_newest(stages[-1].step, steps)}"
    if comparable:
        note += f" A tick marks the query's class, a cross another one. {_agreement(pictures, stages, steps)}"
    cards = []
    for row in range(min(ASKED, len(shown.keys))):
        lines = ""
        for stage in stages:
            tiles = ""
            for place in stage.neighbours[row].tolist():
                kind = "same" if shown.label(row) == searched.label(place) else "other"
                mark = f' class="{kind}"' if comparable else ""
                tiles += f"<li{mark}>{photo(searched, place, side=96)}</li>"
            lines += f"<div><span>{text(steps[stage.step])}</span><ol>{tiles}</ol></div>"
        name = f"Neighbours of {shown.name(row)}"
        query = f'<div class="query">{photo(shown, row)}<span>{text(shown.name(row))}</span></div>'
        cards.append(f'<li class="card" data-save="{text(name)}">{query}<div class="found">{lines}</div></li>')
    return paragraph(note) + f'<ul class="cards">{"".join(cards)}</ul>'


def _newest(last: int, steps: Mapping[int, str]) -> str:
    """Say which step the newest checkpoint is of, where its name does not."""
    return f"The {steps[last]} model is that of step {number(last)}." if last else ""


def _agreement(pictures: Pictures, stages: Sequence[Stage], steps: Mapping[int, str]) -> str:
    """Count the neighbours of the query's class; there may be fewer such images than places."""
    shown, searched = pictures.shown, pictures.searched
    parts = []
    for stage in stages:
        pairs = [(row, place) for row, places in enumerate(stage.neighbours.tolist()) for place in places]
        same = sum(shown.label(row) == searched.label(place) for row, place in pairs)
        parts.append(f"{same} ({steps[stage.step]})")
    queries, places = stages[-1].neighbours.shape
    names = [searched.label(row) for row in range(len(searched.keys))]
    own = set(shown.indices) & set(searched.indices) if pictures.same_source else set()
    possible = sum(min(places, names.count(shown.label(row)) - (shown.indices[row] in own)) for row in range(queries))
    return f"Of the query's class are {', '.join(parts)}, of {possible} possible."
