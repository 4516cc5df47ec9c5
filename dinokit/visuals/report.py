"""A run as one HTML page: what ran, how good it is beside honest baselines, how it learned, what it sees.

Reads nothing but the run folder and, for the pictures, the data that its settings name; writes RUN/report.html.
"""

from pathlib import Path

from dinokit.checkpoints.load import load
from dinokit.core.errors import UserError, reason
from dinokit.core.files import write_text
from dinokit.visuals import pictures, sections
from dinokit.visuals.gallery import choose_pictures, look
from dinokit.visuals.page import Section, document, paragraph
from dinokit.visuals.record import Record, read_record

FILE = "report.html"


def write_report(run: Path) -> Path:
    """Write the report of a run, whatever state it is in, and return its path.

    Raises:
        UserError: if the folder is no run or cannot be written to.
    """
    record = read_record(run)
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
            Section("Settings", "All settings", sections.settings(record)),
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
        chosen = choose_pictures(str(data or ""), load(record.checkpoints[steps[-1]]))
        stages = [look(record.checkpoints[step], step, chosen) for step in steps]
    except UserError as error:
        return paragraph(f"There are no pictures: {error}.", kind="none"), "", ()
    names = sections.stage_names(steps, finished=record.finished)
    return pictures.patches(chosen, stages, names), pictures.neighbours(chosen, stages, names), chosen.shown.classes
