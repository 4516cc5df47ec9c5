"""What happened along a run - its stages, the teachers that became anchors - and how its quality went with it.

Long training makes patches worse while the image as a whole is still told better; a stage that holds patches to an
early teacher repairs them. To see that, what is measured of whole images and what tells of patches stand over the same
steps, with the stages behind them and the anchor marked. Source: DINOv3 (arXiv:2508.10104), section 4 and figure 5.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dinokit.visuals.chart import Baseline, Course, Mark, Panel, Series, Span, panels
from dinokit.visuals.page import paragraph
from dinokit.visuals.plot import number
from dinokit.visuals.record import DENSE, NAMES, Measurement, Record, measurements

FIRST, FITTED = "pretrain", "heads"  # what comes before the stages; where it fits heads alone
LOCALITY = "health/locality"
KNN = "health/knn"  # of the probe, where no evaluation has run
SHOWN = 4  # panels
COLUMNS = 6  # checkpoints side by side
QUALITY = (
    "Above: what is measured of whole images. Below: how well patches tell places apart. A run whose upper curve rises "
    "while the lower one falls has begun to lose its dense features; Gram anchoring holds the patches to an earlier "
    "teacher, the anchor, and should bring the lower curve back without harm to the upper one."
)
ELSEWHERE = "The anchor of stage {stage} is {source}, which is no step of this run."


def course_of(record: Record, *, anchors: bool = True) -> Course:
    """Return the stages of a run, of one stage none, and its anchors."""
    spans = stages(record)
    marks = tuple(Mark(name, step) for name, step in anchor_steps(record)) if anchors else ()
    return Course(spans if len(spans) > 1 else (), marks)


def stages(record: Record) -> tuple[Span, ...]:
    """Return the stages that the settings name, one behind the other; none where they do not say their steps."""
    found, first = [], 0
    for name, settings in _settings(record):
        steps = settings.get("steps")
        if not isinstance(steps, int) or steps < 1:
            return ()
        found.append(Span(name, first, first + steps))
        first += steps
    return tuple(found)


def anchor_steps(record: Record) -> list[tuple[str, int]]:
    """Return the steps of this run whose teachers became anchors: as a stage began, and when one replaced another."""
    found = []
    for span, anchor in _anchors(record):
        step = _step_of(record, span, anchor)
        found += [] if step is None else [("anchor", step)]
        first, every, most = (anchor.get(key) for key in ("first", "every", "most"))
        if isinstance(first, int) and isinstance(every, int) and isinstance(most, int) and every:
            begin = -(-max(first, 1) // every) * every
            due = range(begin, min(begin + most * every, int(span.last - span.first) + 1), every)
            found += [("anchor renewed", int(span.first) + step) for step in due]
    return [(name, step) for name, step in found if step <= record.step]


def columns(record: Record) -> list[int]:
    """Return the checkpoints to show side by side, not more than fit: first, last, anchors, ends of stages, others."""
    steps = sorted(record.checkpoints)
    if len(steps) <= COLUMNS:
        return steps
    ends = [int(span.last) for span in stages(record)]
    wanted = [steps[0], steps[-1], *(step for _, step in anchor_steps(record)), *ends]
    chosen = list(dict.fromkeys(step for step in wanted if step in record.checkpoints))[:COLUMNS]
    while len(chosen) < COLUMNS:  # what is farthest from all that is shown; most happens early, hence the root
        chosen.append(max(steps, key=lambda step: min(abs(step**0.5 - other**0.5) for other in chosen)))
    return sorted(chosen)


def quality(record: Record) -> str:
    """Draw global and dense quality over the steps; empty if one of them is missing."""
    results = measurements(record.evaluations)
    whole = [_panel(one, 0) for one in results if one.evaluation not in DENSE]
    dense = [_panel(one, 3) for one in results if one.evaluation in DENSE]
    whole = whole or _probe(record, KNN, "k-NN of the probe", " %", colour=0)
    dense = _probe(record, LOCALITY, "locality of patches", "", colour=4) + dense
    if not whole or not dense or record.step == 0:
        return ""
    drawn = [*whole[: SHOWN // 2], *dense[: SHOWN // 2]]
    chart = panels(drawn, title="Whole images and patches", course=course_of(record))
    return f'<div class="split">{chart}<div>{paragraph(QUALITY)}{_told(record)}</div></div>'


def _settings(record: Record) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the settings of each stage by name, as far as they are there."""
    experiment = record.setting("experiment")
    if not isinstance(experiment, Mapping):
        return []
    rest = experiment.get("stages")
    later = [(str(name), each) for name, each in rest.items()] if isinstance(rest, Mapping) else []
    name = FITTED if record.setting("experiment.optim.trained") == FITTED else FIRST
    return [(name, experiment), *((name, each) for name, each in later if isinstance(each, Mapping))]


def _anchors(record: Record) -> list[tuple[Span, Mapping[str, Any]]]:
    """Return the stages that have an anchor, with its settings: those of the stage before and what differs."""
    found, held = list[tuple[Span, Mapping[str, Any]]](), dict[str, Any]()
    for span, (_, settings) in zip(stages(record), _settings(record), strict=False):
        changes = settings.get("changes", settings)
        own = changes.get("anchor", held) if isinstance(changes, Mapping) else held
        held = held | dict(own) if isinstance(own, Mapping) else {}
        found += [(span, held)] if held.get("source") else []
    return found


def _step_of(record: Record, span: Span, anchor: Mapping[str, Any]) -> int | None:
    """Return the step whose teacher was the anchor as a stage began; None if it is none of this run."""
    source, chosen = str(anchor["source"]), record.anchor
    if span.first == 0 and record.setting("experiment.start") is not None:
        return None  # of the run that it began with
    if source == "auto" and chosen.get("stage_begins") == span.first:
        source = Path(str(chosen.get("chosen", ""))).name
    if source == "start":
        return int(span.first)
    return int(source) if source.isdecimal() else None


def _told(record: Record) -> str:
    """Say in words what is marked."""
    lines = []
    for span, anchor in _anchors(record):
        step = _step_of(record, span, anchor)
        if record.step < span.first:
            continue
        if step is not None:
            lines.append(f"Stage {span.name} is anchored to the teacher of step {number(step)}.{_why(record, span)}")
        elif anchor["source"] == "teacher":
            lines.append(f"Stage {span.name} is anchored to the teacher of the day.")
        else:
            chosen = record.anchor.get("chosen") if anchor["source"] == "auto" else anchor["source"]
            lines.append(ELSEWHERE.format(stage=span.name, source=chosen or "not chosen yet"))
    return "".join(paragraph(line) for line in lines)


def _why(record: Record, span: Span) -> str:
    """Say among how many an anchor was chosen."""
    candidates = record.anchor.get("candidates")
    if record.anchor.get("stage_begins") != span.first or not isinstance(candidates, Mapping):
        return ""
    return f" It was chosen among {len(candidates)}: the earliest whose locality is as good as the best."


def curve_of(result: Measurement, name: str, colour: int) -> Series:
    """Return an evaluation over the run, with its intervals if they are known."""
    low, high = zip(*result.intervals, strict=True) if result.intervals else ((), ())
    return Series(name, result.steps, result.values, colour, marks=True, low=low, high=high)


def _panel(result: Measurement, colour: int) -> Panel:
    curve = curve_of(result, result.title, colour)
    lines = [
        Baseline(NAMES[name], value, 2 if name == "random-init" else 1) for name, value in result.baselines.items()
    ]
    return Panel([curve], lines, result.unit, title=result.title)


def _probe(record: Record, name: str, title: str, unit: str, *, colour: int) -> list[Panel]:
    """Return the panel of a sign of health, if it was read more than once."""
    x, y = record.curve(name)
    return [Panel([Series(title, x, y, colour)], unit=unit, title=title)] if len(x) > 1 else []
