"""The parts of a run's report, each from what was read to HTML; no part fails because another is missing."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from dinokit.visuals import glossary
from dinokit.visuals.chart import PERCENT, Baseline, Series, line_chart, number
from dinokit.visuals.gallery import ASKED, Images, Pictures, Stage, map_side
from dinokit.visuals.headline import NAMES, TITLES, Measurement, measurements, sentence
from dinokit.visuals.page import details, facts, paragraph, picture, table, text
from dinokit.visuals.pictures import LOSSLESS, data_uri
from dinokit.visuals.record import PIXELS, RANDOM, TEACHER, Record

COLOURS = {TEACHER: 0, PIXELS: 1, RANDOM: 2}  # classes of the style sheet
LISTED = 200  # bad images on the page
REASONS = 8  # the most frequent ones

UNFINISHED = (
    "This run is at step {step} of {steps}: it was stopped or is still going. "
    "The command under “The run”, given again, continues it."
)
UNMEASURED = (
    "No measurement: the data has no labels, or no evaluation has run. The loss alone does not say how good features "
    "are; look at the pictures below."
)
CURVES = (
    "Thin: what was logged; bold: its running mean. A DINO loss that stays at log(number of prototypes), or falls to "
    "almost nothing at once, means that the features have collapsed; a slow fall, also after a rise, is healthy."
)
HEALTH = "health/"
SIGNS = (  # in the order of the page
    r"health/[^/]+/target_entropy", r"health/[^/]+/information", r"health/[^/]+/used", r"health/[^/]+/top",
    r"health/rank_cls", r"health/rank_patches", r"health/nearest", r"health/agreement", r"health/patch_norm",
    r"health/locality", r"health/same_place", r"health/cls_patch", r"health/knn",
)  # fmt: skip
WATCHED = (
    "Measured while it trained, on a few images that stayed the same. A collapse shows as a target entropy at 0 or at "
    "log(number of prototypes), information near 0, an effective rank near 1 and images that touch their neighbours. "
    "At the first steps all of that is normal. Locality that falls while other signs still rise is what Gram "
    "anchoring repairs."
)
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

MACHINE = {
    "images": "Images",
    "started": "Started",
    "device": "Device",
    "processor": "Processor",
    "cores": "Cores",
    "threads": "Threads",
    "system": "System",
}


def header(record: Record) -> str:
    """Say in the first screen what this is, what it gave, and whether it is finished."""
    results = measurements(record.evaluations)
    parts = [paragraph("dinokit · training report", kind="eyebrow"), f"<h1>{text(record.path.resolve().name)}</h1>"]
    parts.append(paragraph(" · ".join(_summary(record)), kind="lead"))
    if not record.finished:
        parts.append(paragraph(UNFINISHED.format(step=number(record.step), steps=_steps(record)), kind="notice"))
    if record.verdict:
        parts.append(
            paragraph(
                f"{record.verdict[0].upper()}{record.verdict[1:]}.",
                kind="verdict" if _well(record) else "notice verdict",
            )
        )
    if not results:
        parts.append(paragraph(UNMEASURED, kind="headline quiet"))
    for result in results:
        parts.append(f'<div class="result">{paragraph(sentence(result), kind="headline")}{_bars(result)}</div>')
    return "".join(parts)


def measured(record: Record) -> str:
    """Show each evaluation over time with its baselines, and all its numbers."""
    parts = []
    for result in measurements(record.evaluations):
        lines = [Baseline(NAMES[name], value, COLOURS[name]) for name, value in result.baselines.items()]
        curve = Series(NAMES[TEACHER], result.steps, result.values, COLOURS[TEACHER], marks=True)
        chart = line_chart([curve], title=f"{result.title} over training", baselines=lines, unit=PERCENT)
        note = (
            "Each dot is the teacher of one checkpoint. The dashed lines are what the same measurement gives without "
            "any learning: features are worth something where the curve is above both."
        )
        if result.queries:
            note += f" Measured with {number(result.queries)} images"
            note += f"; one standard error is about {result.noise:.1f} points." if "top1" in result.metric else "."
        parts.append(f'<div class="split">{chart}<div>{paragraph(note)}{_numbers(record, result)}</div></div>')
    return "".join(parts)


def learning(record: Record) -> str:
    """Show the loss and its terms, and fold away what is for the expert."""
    names = record.quantities()
    losses = [name for name in names if name == "loss" or name.startswith("loss/")]
    others = [name for name in names if name not in losses and not name.startswith(HEALTH)]
    if not losses:
        return paragraph("Nothing was logged yet.", kind="none")
    body = paragraph(CURVES) + f'<div class="charts">{"".join(_curve(record, name) for name in losses)}</div>'
    if others:
        rest = f'<div class="charts">{"".join(_curve(record, name) for name in others)}</div>'
        body += details("Speed, schedules and gradients", rest)
    return body


def health(record: Record) -> str:
    """Show the vital signs; what tells of a collapse first, and the rest folded away. Empty if none was measured."""
    names = [name for name in record.quantities() if name.startswith(HEALTH)]
    first = [name for sign in SIGNS for name in names if re.fullmatch(sign, name)]
    if not first:
        return ""
    rest = "".join(_curve(record, name) for name in names if name not in first)
    body = paragraph(WATCHED) + f'<div class="charts">{"".join(_curve(record, name) for name in first)}</div>'
    return body + (details("All vital signs", f'<div class="charts">{rest}</div>') if rest else "")


def _well(record: Record) -> bool:
    return record.verdict.startswith(("healthy", "starting"))


def patches(pictures: Pictures, stages: Sequence[Stage], steps: Mapping[int, str]) -> str:
    """Show the PCA maps of all stages beside each picture."""
    side = map_side(pictures.side, pictures.patch_size)
    note = COLOURED.format(patches=" by ".join(str(count) for count in stages[-1].maps.shape[1:3]))
    note += _which(stages, steps)
    if side != pictures.side:
        note += (
            f" For these maps the pictures of {pictures.side} px were enlarged to {side} px, because patches of "
            f"{pictures.patch_size} px would otherwise be too few to show anything; the features above are from "
            f"{pictures.side} px."
        )
    cards = []
    for index in range(len(pictures.shown.keys)):
        tiles = _tile(_photo(pictures.shown, index), _name(pictures.shown, index))
        for stage in stages:
            name = steps[stage.step]
            image = picture(data_uri(stage.maps[index]), alt=f"PCA of {pictures.shown.keys[index]}, {name}", sharp=True)
            tiles += _tile(image, name)
        cards.append(f'<li class="strip" style="--n:{1 + len(stages)}">{tiles}</li>')
    return paragraph(note) + f'<ul class="strips">{"".join(cards)}</ul>'


def neighbours(pictures: Pictures, stages: Sequence[Stage], steps: Mapping[int, str]) -> str:
    """Show which images each stage finds most similar to some queries."""
    shown, searched = pictures.shown, pictures.searched
    note = FOUND.format(count=number(len(searched.keys))) + _which(stages, steps)
    if _comparable(pictures):
        note += f" A tick marks the query's class, a cross another one. {_agreement(pictures, stages, steps)}"
    cards = []
    for row in range(min(ASKED, len(shown.keys))):
        lines = "".join(_found(pictures, stage, row, steps[stage.step]) for stage in stages)
        query = f'<div class="query">{_photo(shown, row)}<span>{text(_name(shown, row))}</span></div>'
        cards.append(f'<li class="card">{query}<div class="found">{lines}</div></li>')
    return paragraph(note) + f'<ul class="cards">{"".join(cards)}</ul>'


def facts_of(record: Record) -> str:
    """Say what ran, on what, for how long, and how to do it again."""
    weights = record.setting("experiment.backbone")
    rows: list[tuple[str, object]] = [
        ("Recipe", record.setting("experiment.recipe")),
        ("Data", record.setting("experiment.data.source")),
        ("Model", _model(weights) if isinstance(weights, Mapping) else None),
        ("Objectives", ", ".join(record.setting("experiment.objectives") or [])),
        ("Steps", f"{number(record.step)} of {_steps(record)}"),
        ("Batch", record.setting("experiment.data.batch_size")),
        ("Seed", record.setting("experiment.seed")),
        ("Training time", None if record.seconds is None else duration(record.seconds)),
    ]
    known = [(title, record.environment.get(key)) for key, title in MACHINE.items()]
    versions = [
        f"{k} {v}" for k, v in record.environment.items() if k not in (*MACHINE, "command", "source", "earlier")
    ]
    command = record.environment.get("command")
    shown = f'<pre class="command"><code>{text(command)}</code></pre>' if command else ""
    return shown + facts([*rows, *known, ("Versions", ", ".join(versions))])


def bad_images(record: Record) -> str:
    """Say how many images could not be used and why, and list them; empty without any."""
    if not record.bad_images:
        return ""
    rows = [(line.get("key", "?"), line.get("reason", "")) for line in record.bad_images]
    count = len(rows)
    note = f"{number(count)} image{' was' if count == 1 else 's were'} replaced by others in training{_share(record)}."
    reasons = Counter(reason for _, reason in rows).most_common(REASONS)
    why = table(["Why", "Images"], [(reason, number(images)) for reason, images in reasons]) if count > 10 else ""
    listing = table(["File", "Why"], rows[:LISTED])
    more = paragraph(f"... and {number(count - LISTED)} more in bad_images.jsonl.") if count > LISTED else ""
    return paragraph(note) + why + (details(f"Show {min(count, LISTED)}", listing + more) if count > 10 else listing)


def _share(record: Record) -> str:
    """Say of how many images, if the run's files tell."""
    images, batch = record.environment.get("images"), record.setting("experiment.data.batch_size")
    if not isinstance(images, int) or not isinstance(batch, int):
        return ""
    seen = min(record.step * batch, images)
    return f", {100 * len(record.bad_images) / seen:.2g} % of the {number(seen)} seen" if seen else ""


def settings(record: Record) -> str:
    """Show config.yaml as it is."""
    return details("config.yaml, whole", f"<pre><code>{text(record.config_text)}</code></pre>")


def words(record: Record) -> str:
    """Explain every quantity on the page."""
    logged = [(glossary.title(name), glossary.meaning(name)) for name in record.quantities()]
    return facts(dict.fromkeys([*glossary.CONCEPTS, *logged]), kind="facts words")


def stage_names(steps: Sequence[int], *, finished: bool) -> dict[int, str]:
    """Name the stages for captions."""
    names = {step: "untrained" if step == 0 else f"step {number(step)}" for step in steps}
    if steps and steps[-1] > 0:
        names[steps[-1]] = "final" if finished else "newest"
    return names


def duration(seconds: float) -> str:
    """Write seconds for a person."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _steps(record: Record) -> str:
    return number(record.step if record.steps is None else record.steps)


def _which(stages: Sequence[Stage], steps: Mapping[int, str]) -> str:
    """Say which step the newest stage is of, where its name does not."""
    last = stages[-1].step
    return f" The {steps[last]} model is that of step {number(last)}." if last else ""


def _summary(record: Record) -> list[str]:
    recipe, data = record.setting("experiment.recipe"), record.setting("experiment.data.source")
    parts = [f"recipe {recipe}" if recipe else "", f"on {data}" if data else "", f"{number(record.step)} steps"]
    if record.seconds is not None:
        parts.append(f"{duration(record.seconds)} of training")
    machine = record.environment.get("processor") or record.environment.get("device")
    return [part for part in (*parts, str(machine) if machine else "") if part]


def _bars(result: Measurement) -> str:
    items = ""
    for name, value in {TEACHER: result.values[-1], **result.baselines}.items():
        bar = f'<i class="s{COLOURS[name]}"><u style="width:{min(max(value, 0), 100):.2f}%"></u></i>'
        items += f"<li><span>{NAMES[name]}</span>{bar}<b>{value:.1f} %</b></li>"
    return f'<ul class="bars" aria-label="{text(result.title)}">{items}</ul>'


def _numbers(record: Record, result: Measurement) -> str:
    """Tabulate the newest line of each model."""
    ours = [line for line in record.evaluations if str(line["evaluation"]) == result.evaluation]
    lines = {str(line.get("model", TEACHER)): line for line in ours}
    hidden = ("step", "time", "queries", "gallery")
    keys = [k for k, v in lines.get(TEACHER, {}).items() if isinstance(v, int | float) and k not in hidden]
    models = [name for name in (TEACHER, PIXELS, RANDOM) if name in lines]
    rows = [(key, *(_percent(lines[name].get(key)) for name in models)) for key in keys]
    title = f"All numbers of {TITLES.get(result.evaluation, result.evaluation)}, in percent"
    return details(title, table(["", *(NAMES[name] for name in models)], rows, kind="numbers"))


def _percent(value: Any) -> str:
    return f"{value:.1f}" if isinstance(value, int | float) else "-"


def _curve(record: Record, name: str) -> str:
    x, y = record.curve(name)
    # the first steps of a loss can dwarf all that follows
    log = name.startswith("grad_norm/") and min(y) > 0
    colour = 0 if name == "loss" else 3 if name.startswith("loss/") else 4
    curve = Series("last", x, y, colour, smooth=name.startswith(("loss", "grad_norm")))
    return line_chart([curve], title=glossary.title(name), log=log)


def _tile(image: str, caption: str) -> str:
    return f"<figure>{image}<figcaption>{text(caption)}</figcaption></figure>"


def _photo(images: Images, row: int, *, side: int = 160) -> str:
    pixels = images.picture(row)
    small = max(pixels.shape[:2]) <= LOSSLESS
    return picture(data_uri(pixels, side=side), alt=_alt(images, row), sharp=small)


def _alt(images: Images, row: int) -> str:
    return f"{images.keys[row]} ({images.label(row)})" if images.label(row) else images.keys[row]


def _name(images: Images, row: int) -> str:
    return images.label(row) or images.keys[row].rsplit("/", 1)[-1]


def _found(pictures: Pictures, stage: Stage, row: int, name: str) -> str:
    tiles = []
    for place in stage.neighbours[row].tolist():
        image = _photo(pictures.searched, place, side=96)
        tiles.append(f"<li{_mark(pictures, row, place)}>{image}</li>")
    return f"<div><span>{text(name)}</span><ol>{''.join(tiles)}</ol></div>"


def _mark(pictures: Pictures, row: int, place: int) -> str:
    if not _comparable(pictures):
        return ""
    same = pictures.shown.label(row) == pictures.searched.label(place)
    return ' class="same"' if same else ' class="other"'


def _agreement(pictures: Pictures, stages: Sequence[Stage], steps: Mapping[int, str]) -> str:
    if not _comparable(pictures):
        return ""
    shown, searched = pictures.shown, pictures.searched
    parts = []
    for stage in stages:
        pairs = [(row, place) for row, places in enumerate(stage.neighbours.tolist()) for place in places]
        same = sum(shown.label(row) == searched.label(place) for row, place in pairs)
        parts.append(f"{same} ({steps[stage.step]})")
    return f"Of the query's class are {', '.join(parts)}, of {_possible(pictures, stages[-1])} possible."


def _possible(pictures: Pictures, stage: Stage) -> int:
    """Count the neighbours that could be of the query's class: there may be fewer such images than places."""
    queries, places = stage.neighbours.shape
    names = [pictures.searched.label(row) for row in range(len(pictures.searched.keys))]
    own = set(pictures.shown.indices) & set(pictures.searched.indices) if pictures.same_source else set()
    total = 0
    for row in range(queries):
        itself = pictures.shown.indices[row] in own
        total += min(places, names.count(pictures.shown.label(row)) - itself)
    return total


def _comparable(pictures: Pictures) -> bool:
    return pictures.shown.labels is not None and pictures.searched.labels is not None


def _model(weights: Mapping[str, Any]) -> str:
    parts = [("dim", "wide"), ("depth", "blocks"), ("heads", "heads"), ("patch_size", "px patches")]
    return "vision transformer, " + ", ".join(f"{weights[key]} {unit}" for key, unit in parts if key in weights)
