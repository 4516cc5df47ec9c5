"""Boxes of an image as YOLO's trainers have them: a text with a line for each, in shares of width and height.

    CLASS CX CY W H               0 to 1; CLASS counts from 0
    CLASS CX CY W H CONFIDENCE    as detections are saved: the last column is passed over, which is said
    CLASS X1 Y1 X2 Y2 X3 Y3 ...   an outline or a turned box: the box is around its points

What is no such line is a mistake, said with its file and its place; a line that stands there twice is one box.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy

from dinokit.annotations.marks import LONGEST, Marks, plain, say
from dinokit.annotations.pairing import reading
from dinokit.core.files import read_text
from dinokit.core.messages import UserError, listed
from dinokit.images.decode import shown_size

SLACK = 1e-3  # beyond 0 and 1: a share that was rounded
SIXTH, TWICE = "have a sixth column, a confidence, which is passed over", "stand there twice and count once"
EMPTY = "without area are left out"
Line = tuple[int, list[float]]  # class, and shares: left, top, right, bottom


@dataclass(frozen=True)
class Meaning:
    """What a set says of its lines."""

    data: str  # its folder or file
    named_by: str = ""  # the file with the names of classes
    names: Mapping[int, str] | None = None  # None: nobody says, and numbers are names
    points: int = 0  # numbers behind a box that are points


def read_texts(texts: Mapping[Path, Path], meaning: Meaning) -> Iterator[Marks]:
    """Read the boxes of images, of each from its text; one whose text is not there has none."""
    odd: dict[str, list[str]] = {SIXTH: [], TWICE: [], EMPTY: []}
    for image, text in texts.items():
        with reading("image", image):
            width, height = shown_size(image.read_bytes())
        lines = _lines(text, odd) if text.is_file() else {}
        boxes, names = list[list[float]](), list[str]()
        for where, words in lines.items():
            kind, shares = _read(words, where, meaning)
            names.append(_named(kind, where, meaning))
            boxes.append(shares)
            if shares[0] == shares[2] or shares[1] == shares[3]:
                del boxes[-1], names[-1]
                odd[EMPTY].append(where)
        found = numpy.array(boxes, dtype=numpy.float64).reshape(-1, 4) * [width, height, width, height]
        yield plain(image, (width, height), found, names, str(text))
    say(meaning.data, odd)


def _lines(text: Path, odd: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Return the words of every line of a text, by its place."""
    found: dict[str, list[str]] = {}
    for number, line in enumerate(read_text(text).splitlines(), start=1):
        words, where = line.split(), f"line {number} of {text}"
        if words in found.values():
            odd[TWICE].append(where)
        elif words:
            found[where] = words
            odd[SIXTH].extend([where] * (len(words) == 6))
    return found


def _read(words: list[str], where: str, meaning: Meaning) -> Line:
    """Return the class and the box of a line, or raise UserError."""
    try:
        kind, *values = (float(word) for word in words)
    except ValueError as error:
        raise UserError(f"{where} is '{' '.join(words)[:LONGEST]}'; expected numbers: class, cx, cy, w, h") from error
    if not kind.is_integer() or not 0 <= kind < 2**31:  # of infinity and NaN neither
        raise UserError(f"{where} has the class {words[0]}; expected a whole number, 0 for the first")
    several = bool(meaning.points) and len(values) == 4 + meaning.points
    outline = not several and len(values) >= 6 and len(values) % 2 == 0
    if len(values) not in (4, 5) and not several and not outline:
        raise UserError(
            f"{where} has {len(words)} columns; expected class, cx, cy, w, h, or class and x, y of 3 points or more"
        )
    shares = values if outline else values[:4]
    wrong = [word for word, value in zip(words[1:], shares) if not -SLACK <= value <= 1 + SLACK]
    if wrong:
        raise UserError(f"{where} has {wrong[0]}; expected shares of width and height from 0 to 1, not pixels")
    if outline:
        across, down = shares[::2], shares[1::2]
        return int(kind), [min(across), min(down), max(across), max(down)]
    x, y, width, height = shares
    return int(kind), [x - width / 2, y - height / 2, x + width / 2, y + height / 2]


def _named(kind: int, where: str, meaning: Meaning) -> str:
    if meaning.names is None:
        return str(kind)
    if kind not in meaning.names:
        raise UserError(
            f"{where} has the class {kind}, which {meaning.named_by} does not name: {len(meaning.names)} names, "
            f"{listed([f'{number} {name}' for number, name in meaning.names.items()])}; add it, or correct the line"
        )
    return meaning.names[kind]
