"""A run as one HTML page: what ran, how good it is beside honest baselines, how it learned, what it sees.

Reads nothing but the run folder and, for the pictures, the data that its settings name; writes RUN/report.html.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from dinokit.core.files import write_text
from dinokit.core.messages import UserError, reason
from dinokit.visuals import sections
from dinokit.visuals.chart import number
from dinokit.visuals.gallery import ASKED, Images, Pictures, Stage, choose_pictures, look, map_side
from dinokit.visuals.page import LOSSLESS, Section, data_uri, details, document, paragraph, picture, text
from dinokit.visuals.record import Record, read_record

FILE = "report.html"
COLOURED = (
    "Every square is one of {patches} patches; patches of one colour look alike to the model. Look for parts (an edge, "
    "a sleeve, an eye, the background) that keep their colour from picture to picture, and compare with the untrained "
    "column. Each model has its own colours, fitted to all these pictures together: compare shapes between columns, "
    "not hues."
)
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
    settings = f"<pre><code>{text(record.config_text)}</code></pre>"
    seen, found, classes = _pictures(record)
    page = document(
        title=f"{run.resolve().name} · dinokit",
        header=sections.header(record, classes=classes),
        sections=(
            Section("Result", "How good are the features?", sections.measured(record)),
            Section("Learning", "How it learned", sections.learning(record)),
            Section("Health", "Was it healthy?", sections.health(record)),
            Section("Patches", "What it sees in a picture", seen),
            Section("Neighbours", "What it finds similar", found),
            Section("Run", "The run", sections.facts_of(record)),
            Section("Bad images", "Images that could not be read", sections.bad_images(record)),
            Section("Settings", "All settings", details("config.yaml, whole", settings)),
            Section("Words", "What the words mean", sections.words(record)),
        ),
    )
    try:
        write_text(run / FILE, page)
    except OSError as error:
        raise UserError(f"cannot write {run / FILE}: {reason(error)}; the run itself is untouched") from error
    return run / FILE


def _pictures(record: Record) -> tuple[str, str, tuple[str, ...]]:
    """Return the parts with pictures, or one that says why there are none, and the classes of the pictures."""
    steps = record.stages()
    data = record.setting("experiment.data.source")
    if not steps:
        return paragraph("There are no pictures: the run has no checkpoint yet.", kind="none"), "", ()
    try:
        chosen = choose_pictures(str(data or ""), record.checkpoints[steps[-1]])
        stages = [look(record.checkpoints[step], step, chosen) for step in steps]
    except UserError as error:
        return paragraph(f"There are no pictures: {error}.", kind="none"), "", ()
    names = sections.stage_names(steps, finished=record.finished)
    return _patches(chosen, stages, names), _neighbours(chosen, stages, names), chosen.shown.classes


def _patches(pictures: Pictures, stages: Sequence[Stage], steps: Mapping[int, str]) -> str:
    """Show the PCA maps of all stages beside each picture."""
    side = map_side(pictures.side, pictures.patch_size)
    note = COLOURED.format(patches=" by ".join(str(count) for count in stages[-1].maps.shape[1:3]))
    note += _newest(stages, steps)
    if side != pictures.side:
        note += (
            f" For these maps the pictures of {pictures.side} px were enlarged to {side} px, because patches of "
            f"{pictures.patch_size} px would otherwise be too few to show anything; the features above are from "
            f"{pictures.side} px."
        )
    cards = []
    for row, key in enumerate(pictures.shown.keys):
        tiles = [(_photo(pictures.shown, row), pictures.shown.name(row))]
        for stage in stages:
            name = steps[stage.step]
            tiles.append((picture(data_uri(stage.maps[row]), alt=f"PCA of {key}, {name}", sharp=True), name))
        figures = "".join(f"<figure>{image}<figcaption>{text(name)}</figcaption></figure>" for image, name in tiles)
        cards.append(f'<li class="strip" style="--n:{len(tiles)}">{figures}</li>')
    return paragraph(note) + f'<ul class="strips">{"".join(cards)}</ul>'


def _neighbours(pictures: Pictures, stages: Sequence[Stage], steps: Mapping[int, str]) -> str:
    """Show which images each stage finds most similar to some queries."""
    shown, searched = pictures.shown, pictures.searched
    comparable = shown.labels is not None and searched.labels is not None
    note = FOUND.format(count=number(len(searched.keys))) + _newest(stages, steps)
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
                tiles += f"<li{mark}>{_photo(searched, place, side=96)}</li>"
            lines += f"<div><span>{text(steps[stage.step])}</span><ol>{tiles}</ol></div>"
        query = f'<div class="query">{_photo(shown, row)}<span>{text(shown.name(row))}</span></div>'
        cards.append(f'<li class="card">{query}<div class="found">{lines}</div></li>')
    return paragraph(note) + f'<ul class="cards">{"".join(cards)}</ul>'


def _newest(stages: Sequence[Stage], steps: Mapping[int, str]) -> str:
    """Say which step the newest stage is of, where its name does not."""
    last = stages[-1].step
    return f" The {steps[last]} model is that of step {number(last)}." if last else ""


def _photo(images: Images, row: int, *, side: int = 160) -> str:
    pixels, label = images.picture(row), images.label(row)
    alt = f"{images.keys[row]} ({label})" if label else images.keys[row]
    return picture(data_uri(pixels, side=side), alt=alt, sharp=max(pixels.shape[:2]) <= LOSSLESS)


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
