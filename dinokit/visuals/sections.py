"""The parts of a run's report that are told in numbers and words; none fails because another is missing."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from dinokit.core.messages import duration
from dinokit.visuals import glossary
from dinokit.visuals.chart import POINTS, Baseline, Course, Series, line_chart
from dinokit.visuals.course import curve_of
from dinokit.visuals.page import details, facts, paragraph, table, text
from dinokit.visuals.plot import number
from dinokit.visuals.prototypes import told_here
from dinokit.visuals.record import (
    COUNTS,
    FAILED,
    NAMES,
    PIXELS,
    RANDOM,
    TEACHER,
    TITLES,
    Measurement,
    Record,
    failures,
    measurements,
    sentence,
)

COLOURS = {TEACHER: 0, PIXELS: 1, RANDOM: 2}  # classes of the style sheet
LISTED = 200  # bad images on the page
REASONS = 8  # the most frequent ones
CLASSES = 6  # named in the first screen
CHARTS = 100  # of one kind

UNFINISHED = (
    "This run is at step {step} of {steps}: it was stopped or is still going. "
    "The command under “The run”, given again, continues it."
)
UNMEASURED = (
    "No measurement: the data has no labels, or no evaluation has run. The loss alone does not say how good features "
    "are; look at the pictures below."
)
BY_CLASS = (
    "A picture counts as right by its class, one of {count}: {named}. Where classes are folders that say where "
    "pictures come from, not what they show, this measures just that."
)
LEARNT = (
    "Each dot is the teacher of one checkpoint. The dashed lines are what the same measurement gives without any "
    "learning: features are worth something where the curve is {side} both."
)
WHISKERS = " Upright strokes are the 95 % bootstrap interval over the images that were asked."
UNMADE = "What could not be measured; the training went on, and the same command tries again."
CURVES = (
    "Thin: what was logged; bold: its running mean. Longer curves are drawn by {points} points, each the mean of "
    "equally many values. A DINO loss that stays at log(number of prototypes), or falls to almost nothing at once, "
    "means that the features have collapsed; a slow fall, also after a rise, is healthy."
)
HEALTH = "health/"
SIGNS = (  # in the order of the page
    r"health/rank_cls", r"health/rank_patches", r"health/nearest", r"health/agreement", r"health/patch_norm",
    r"health/locality", r"health/same_place", r"health/cls_patch", r"health/knn",
)  # fmt: skip
WATCHED = (
    "Measured while it trained, on a few images that stayed the same. A collapse shows as a target entropy at 0 or at "
    "log(number of prototypes), information near 0, an effective rank near 1 and images that touch their neighbours. "
    "At the first steps all of that is normal. Locality that falls while other signs still rise is what Gram "
    "anchoring repairs."
)

INSIDE = "All curves and results stand in this page as JSON too, in the element “numbers”."
MORE = "{count} more curves are among the numbers of this page."
MACHINE = ("images", "started", "device", "processor", "cores", "threads", "system")  # of the environment


def header(record: Record, *, classes: Sequence[str] = ()) -> str:
    """Say in the first screen what this is, what it gave, and whether it is finished.

    Args:
        classes: what the measured labels are, as far as the data could be opened.
    """
    results = measurements(record.evaluations)
    recipe, data = record.setting("experiment.recipe"), record.setting("experiment.data.source")
    machine = record.environment.get("processor") or record.environment.get("device")
    about = [f"recipe {recipe}" if recipe else "", f"on {data}" if data else "", f"{number(record.step)} steps"]
    about += [f"{duration(record.seconds)} of training" if record.seconds is not None else "", str(machine or "")]
    parts = [paragraph("dinokit · training report", kind="eyebrow"), f"<h1>{text(record.path.resolve().name)}</h1>"]
    parts.append(paragraph(" · ".join(filter(None, about)), kind="lead"))
    if not record.finished:
        notice = UNFINISHED.format(step=number(record.step), steps=number(record.steps or record.step))
        parts.append(paragraph(notice, kind="notice"))
    if record.verdict:
        kind = "verdict" if record.verdict.startswith(("healthy", "starting")) else "notice verdict"
        parts.append(paragraph(f"{record.verdict[0].upper()}{record.verdict[1:]}.", kind=kind))
    if not results:
        parts.append(paragraph(UNMEASURED, kind="headline quiet"))
    for result in results:
        bars, values = "", {TEACHER: result.values[-1], **result.baselines}
        whole = 100.0 if result.rises else max(values.values()) or 1.0
        for name, value in values.items():
            width = min(max(100 * value / whole, 0), 100)
            bar = f'<i class="s{COLOURS[name]}"><u style="width:{width:.2f}%"></u></i>'
            bars += f"<li><span>{NAMES[name]}</span>{bar}<b>{result.written(value)}</b></li>"
        title = text(result.title)
        bars = f'<ul class="bars" aria-label="{title}">{bars}</ul>'
        told = paragraph(sentence(result), kind="headline")
        parts.append(f'<div class="result" data-save="{title}">{told}{bars}</div>')
    if results and classes:
        named = ", ".join(classes[:CLASSES]) + (" and others" if len(classes) > CLASSES else "")
        parts.append(paragraph(BY_CLASS.format(count=number(len(classes)), named=named), kind="lead"))
    return "".join(parts)


def measured(record: Record, course: Course) -> str:
    """Show each evaluation over time with its baselines, and all its numbers."""
    parts = []
    for result in measurements(record.evaluations)[:CHARTS]:
        lines = [Baseline(NAMES[name], value, COLOURS[name]) for name, value in result.baselines.items()]
        curve = curve_of(result, NAMES[TEACHER], COLOURS[TEACHER])
        title = f"{result.title} over training"
        chart = line_chart([curve], title=title, baselines=lines, unit=result.unit, course=course)
        note = LEARNT.format(side="above" if result.rises else "below")
        note += WHISKERS if result.intervals else ""
        if result.queries:
            note += f" Measured with {number(result.queries)} images"
            note += f"; one standard error is about {result.noise:.1f} points." if "top1" in result.metric else "."
        parts.append(f'<div class="split">{chart}<div>{paragraph(note)}{_numbers(record, result)}</div></div>')
    return "".join(parts) + _failures(record)


def learning(record: Record, course: Course) -> str:
    """Show the loss and its terms, and fold away what is for the expert."""
    names = record.curves
    losses = [name for name in names if name == "loss" or name.startswith("loss/")]
    others = [name for name in names if name not in losses and not name.startswith(HEALTH)]
    if not losses:
        return paragraph("Nothing was logged yet.", kind="none")
    rest = details("Speed, schedules and gradients", _curves(record, others, course)) if others else ""
    return paragraph(CURVES.format(points=POINTS)) + _curves(record, losses, course) + rest


def health(record: Record, course: Course) -> str:
    """Show the vital signs, but for prototypes (prototypes.py); the rest folded away. Empty if none was measured."""
    names = [name for name in record.curves if name.startswith(HEALTH) and not told_here(name)]
    first = [name for sign in SIGNS for name in names if re.fullmatch(sign, name)]
    if not first:
        return ""
    others = [name for name in names if name not in first]
    rest = details("All vital signs", _curves(record, others, course)) if others else ""
    return paragraph(WATCHED) + _curves(record, first, course) + rest


def facts_of(record: Record) -> str:
    """Say what ran, on what, for how long, and how to do it again."""
    weights, model = record.setting("experiment.backbone"), ""
    if isinstance(weights, Mapping):
        known = [("dim", "wide"), ("depth", "blocks"), ("heads", "heads"), ("patch_size", "px patches")]
        model = ", ".join(f"{weights[key]} {unit}" for key, unit in known if key in weights)
    rows: list[tuple[str, object]] = [
        ("Recipe", record.setting("experiment.recipe")),
        ("Data", record.setting("experiment.data.source")),
        ("Model", f"vision transformer, {model}" if model else None),
        ("Objectives", ", ".join(record.setting("experiment.objectives") or [])),
        ("Steps", f"{number(record.step)} of {number(record.steps or record.step)}"),
        ("Batch", record.setting("experiment.data.batch_size")),
        ("Seed", record.setting("experiment.seed")),
        ("Training time", None if record.seconds is None else duration(record.seconds)),
    ]
    machine = [(key.capitalize(), record.environment.get(key)) for key in MACHINE]
    versions = [
        f"{k} {v}" for k, v in record.environment.items() if k not in (*MACHINE, "command", "source", "earlier")
    ]
    command = record.environment.get("command")
    shown = f'<pre class="command"><code>{text(command)}</code></pre>' if command else ""
    return shown + facts([*rows, *machine, ("Versions", ", ".join(versions))]) + f"<p data-numbers>{INSIDE}</p>"


def bad_images(record: Record) -> str:
    """Say how many images could not be used and why, and list them; empty without any."""
    if not record.bad_images:
        return ""
    rows = [(line.get("key", "?"), line.get("reason", "")) for line in record.bad_images]
    count = len(rows)
    images, batch = record.environment.get("images"), record.setting("experiment.data.batch_size")
    seen = min(record.step * batch, images) if isinstance(images, int) and isinstance(batch, int) else 0
    share = f", {100 * count / seen:.2g} % of the {number(seen)} seen" if seen else ""
    note = f"{number(count)} image{' was' if count == 1 else 's were'} replaced by others in training{share}."
    reasons = Counter(reason for _, reason in rows).most_common(REASONS)
    why = table(["Why", "Images"], [(reason, number(images)) for reason, images in reasons]) if count > 10 else ""
    listing = table(["File", "Why"], rows[:LISTED])
    more = paragraph(f"... and {number(count - LISTED)} more in bad_images.jsonl.") if count > LISTED else ""
    return paragraph(note) + why + (details(f"Show {min(count, LISTED)}", listing + more) if count > 10 else listing)


def words(record: Record) -> str:
    """Explain every quantity on the page."""
    logged = [(glossary.title(name), glossary.meaning(name)) for name in record.curves]
    return facts(dict.fromkeys([*glossary.CONCEPTS, *logged]), kind="facts words")


def stage_names(steps: Sequence[int], *, finished: bool) -> dict[int, str]:
    """Name the stages for captions."""
    names = {step: "untrained" if step == 0 else f"step {number(step)}" for step in steps}
    if steps and steps[-1] > 0:
        names[steps[-1]] = "final" if finished else "newest"
    return names


def _failures(record: Record) -> str:
    """Say what could not be measured, and why; empty if there is nothing."""
    lines = failures(record.evaluations)
    rows = [(f"{line['evaluation']}, step {number(line['step'])}", line[FAILED]) for line in lines[-LISTED:]]
    return paragraph(UNMADE) + table(["What", "Why"], rows) if rows else ""


def _numbers(record: Record, result: Measurement) -> str:
    """Tabulate the newest line of each model."""
    lines: dict[str, Mapping[str, object]] = {}
    for line in sorted(record.evaluations, key=lambda line: line["step"]):
        same = (line["evaluation"], line.get("data", "")) == (result.evaluation, result.data)
        if same and FAILED not in line:
            lines[str(line.get("model", TEACHER))] = line
    keys = [k for k, v in lines.get(TEACHER, {}).items() if isinstance(v, int | float) and k not in COUNTS]
    models = [name for name in (TEACHER, PIXELS, RANDOM) if name in lines]
    percents = result.evaluation in TITLES  # all of them
    rows = []
    for key in keys[:LISTED]:
        values = [lines[name].get(key) for name in models]
        known = (value if isinstance(value, int | float) else None for value in values)
        rows.append((key, *("-" if each is None else f"{each:.1f}" if percents else number(each) for each in known)))
    title = f"All numbers of {result.name}" + (", in percent" if percents else "")
    return details(title, table(["", *(NAMES[name] for name in models)], rows, kind="numbers"))


def _curves(record: Record, names: Sequence[str], course: Course) -> str:
    """Draw a chart of each quantity."""
    charts = ""
    for name in names[:CHARTS]:
        x, y = record.curve(name)
        # the first steps of a loss can dwarf all that follows
        log = name.startswith("grad_norm/") and min(y) > 0
        colour = 0 if name == "loss" else 3 if name.startswith("loss/") else 4
        curve = Series("last", x, y, colour, smooth=name.startswith(("loss", "grad_norm")))
        charts += line_chart([curve], title=glossary.title(name), log=log, course=course)
    more = MORE.format(count=number(len(names) - CHARTS))
    return f'<div class="charts">{charts}</div>' + (paragraph(more) if len(names) > CHARTS else "")
