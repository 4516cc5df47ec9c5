"""What a detector gets wrong, written for its page (visuals/detection.py): OUT/mistakes.json.

    {"data", "split", "held_out": bool, "numbers", "intervals", "classes", "AP": [of each class],
     "precision": {"0.5": [at 101 recalls], "0.75": [...]},                        averaged over the classes
     "least": score, "images": count,
     "boxes": [[right, double, confused, loose, alarm] of each class], "objects": [[found, confused, missed] ...],
     "confusions": [[class of the object, class that was said, boxes]],
     "best", "worst", "confused": [places], "shown": [{"place", "file", "size", "quality", "objects", "found", ...}]}

The words are those of metrics/mistakes.py. Files are named as they were read, so nothing of the pictures is copied.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dinokit.annotations.boxes import Boxed
from dinokit.core.files import write_json
from dinokit.metrics.detection import Found, Objects
from dinokit.metrics.matches import curves, interval, match, ranked
from dinokit.metrics.mistakes import account, sure

FILE = "mistakes.json"
SHOWN = 8  # of the best, the worst and the most confused images
LEVELS = {"0.5": 0, "0.75": 5}  # places in matches.THRESHOLDS


def judged(
    test: Boxed,
    indices: Sequence[int],
    objects: Sequence[Objects],
    found: Sequence[Found],
    *,
    about: Mapping[str, Any],
    out: Path | None,
) -> tuple[dict[str, list[float]], float]:
    """Return the intervals of the numbers and the score by which most is right, and write what is wrong.

    Args:
        indices: of the images that were looked at.
        about: data, split, held_out, numbers, classes, AP.
    """
    matched = [match(*pair, federated=test.federated) for pair in zip(objects, found, strict=True)]
    every = ranked(objects, found, matched, classes=len(about["classes"]))
    intervals = {name: ends for name, ends in interval(every).items() if name in about["numbers"]}
    if out is not None:
        precision = curves(every)
        told = account(objects, found, matched, classes=len(about["classes"]), shown=SHOWN)
        for one in told["shown"]:
            marks = test.marks[indices[one["place"]]]
            one |= {"file": str(marks.image), "size": list(marks.size)}
        levels = {name: precision[place].tolist() for name, place in LEVELS.items()}
        write_json(out / FILE, {**about, "intervals": intervals, "precision": levels, **told})
    return intervals, sure(objects, found, matched)
