"""The result in one sentence, and whether it is one: the trained features beside the two baselines they must beat."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dinokit.visuals.record import PIXELS, RANDOM, TEACHER

NAMES = {TEACHER: "trained", PIXELS: "raw pixels", RANDOM: "untrained"}
TITLES = {"knn": "k-NN accuracy", "retrieval": "Retrieval mAP"}
COUNTS = ("step", "time", "queries", "gallery")  # of a line, no results


@dataclass(frozen=True)
class Measurement:
    """One evaluation over the run: a number in percent per measured step, and the two baselines."""

    evaluation: str
    metric: str  # the key in the log, such as top1@20
    title: str  # for people
    steps: tuple[int, ...]
    values: tuple[float, ...]  # of the teacher
    baselines: Mapping[str, float]  # random-init, raw-pixels, as far as measured
    queries: int | None  # images that were asked

    @property
    def noise(self) -> float:
        """One standard error of the final value in percent points, for images drawn independently.

        Exact for an accuracy, an upper bound for an average precision; 0.5 if the number of images is unknown.
        """
        share = min(max(self.values[-1] / 100, 0.0), 1.0)
        return 100 * math.sqrt(share * (1 - share) / self.queries) if self.queries else 0.5


def measurements(lines: Iterable[Mapping[str, Any]]) -> list[Measurement]:
    """Group the evaluation lines of a run's log by evaluation; those without a trained value are left out."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for line in lines:
        groups.setdefault(str(line["evaluation"]), []).append(line)
    found = [_measurement(name, group) for name, group in groups.items()]
    return sorted((one for one in found if one is not None), key=lambda one: (one.evaluation != "knn", one.evaluation))


def sentence(result: Measurement) -> str:
    """Say what the final value is worth."""
    final = result.values[-1]
    comparisons = [
        f"{difference(final - result.baselines[name], noise=result.noise)} {text} ({result.baselines[name]:.1f} %)"
        for name, text in ((PIXELS, "raw pixels"), (RANDOM, "the same model untrained"))
        if name in result.baselines
    ]
    if not comparisons:
        return f"{result.title} {final:.1f} %. No baseline was measured, so this number stands alone."
    text = f"{result.title} {final:.1f} %: {' and '.join(comparisons)}."
    below = [name for name in result.baselines if final - result.baselines[name] < -result.noise]
    if PIXELS in below:
        text += " On this data, comparing the pixels themselves still works better than these features."
    elif RANDOM in below:
        text += " Training has made the features worse than chance weights; see the loss curves for a collapse."
    return text


def difference(points: float, *, noise: float) -> str:
    """Put a difference in percent points into words; one within the noise is none."""
    if abs(points) <= noise:
        return "level with"
    return f"{abs(points):.1f} points {'above' if points > 0 else 'below'}"


def _measurement(name: str, lines: list[Mapping[str, Any]]) -> Measurement | None:
    """Follow one number over the run: top-1 at k = 20 or the nearest k, else mAP, else the first there is."""
    numbers = list(
        dict.fromkeys(key for line in lines for key, value in line.items() if isinstance(value, float | int))
    )
    top1 = [key for key in numbers if key.startswith("top1@") and key[5:].isdigit()]
    others = ["mAP"] if "mAP" in numbers else [key for key in numbers if key not in COUNTS]
    chosen = sorted(top1, key=lambda key: abs(int(key[5:]) - 20)) or others
    if not chosen:
        return None
    metric = chosen[0]
    curve: dict[int, float] = {}
    measured: dict[str, float] = {}
    for line in lines:
        model = str(line.get("model", TEACHER))
        if model == TEACHER and metric in line:
            curve[int(line["step"])] = float(line[metric])
        elif metric in line:
            measured[model] = float(line[metric])
    if not curve:
        return None
    curve = dict(sorted(curve.items()))
    if 0 in curve:
        measured.setdefault(RANDOM, curve[0])  # the teacher before its first step is the untrained model
    queries = [int(line["queries"]) for line in lines if line.get("queries")]
    detail = f" (k = {metric.split('@')[1]})" if metric.startswith("top1@") else ""
    return Measurement(
        evaluation=name,
        metric=metric,
        title=TITLES.get(name, f"{name} {metric}") + detail,
        steps=tuple(curve),
        values=tuple(curve.values()),
        baselines={name: measured[name] for name in (PIXELS, RANDOM) if name in measured},
        queries=queries[-1] if queries else None,
    )
