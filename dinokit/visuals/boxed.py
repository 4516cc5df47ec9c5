"""Pictures with boxes, as a page shows them: what there is beside what was found, each told by a sign and a line.

The photo is held once, the boxes are SVG above it: they stay sharp, say all of themselves on hover and are saved with
the figure. No meaning hangs on colour alone: a sign stands before every name, and what is wrong has a dashed line.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dinokit.annotations.pairing import read_image
from dinokit.core.messages import UserError
from dinokit.images import intensity
from dinokit.visuals.page import data_uri, text
from dinokit.visuals.plot import Number

SIDE = 416  # pixels of the long side of a photo
WIDTH, TALLEST = 260, 320  # of a drawing
LETTER, HIGH = 7.0, 12  # pixels of a letter and a line, about
LONG = 20  # letters of a class that stand in a picture
SIGNS = {
    "right": ("✓", "right: the best box on an object of its class, IoU of at least 0.5"),
    "double": ("2x", "double: a further box on an object that is found already"),
    "confused": ("≠", "confused: it lies on an object of another class, IoU of at least 0.5"),
    "loose": ("~", "loose: it only touches an object of its class, IoU below 0.5"),
    "alarm": ("!", "false alarm: nothing of its class is there"),
    "found": ("✓", "found: a right box lies on it"),
    "taken": ("≠", "taken for another: only a confused box lies on it"),
    "missed": ("✗", "missed: no right box lies on it"),
    "crowd": ("", "does not count: a crowd, or difficult"),
}
BOXES, OBJECTS = ("right", "double", "confused", "loose", "alarm"), ("found", "taken", "missed")
_OF_STATE = {"confused": "taken", None: "crowd"}


def figure(one: Mapping[str, Any], classes: Sequence[str], *, name: str, anchor: str) -> str:
    """Draw an image of mistakes.json, its truth beside what was found, as a <figure>.

    Args:
        name: of the figure, when it is saved.
        anchor: of the photo, no other of the page.
    """
    objects, found = one["objects"], one["found"]
    truth = [(each["box"], *_object(each, found, classes, turn)) for turn, each in enumerate(objects)]
    said = [(each["box"], *_box(each, objects, classes)) for each in found]
    photo = _photo(Path(one["file"]))
    width, height = one["size"]
    scale = min(WIDTH / width, TALLEST / height)
    size = width * scale, height * scale
    held = (
        "" if photo is None else f'<image id="{anchor}" href="{photo}" width="{size[0]:.1f}" height="{size[1]:.1f}"/>'
    )
    again = "" if photo is None else f'<use href="#{anchor}"/>'
    halves = ((held, "truth", truth), (again, "found", said[::-1]))
    drawn = "".join(
        f"<div><span>{title}</span>{_drawing(below, boxes, title, size, scale)}</div>" for below, title, boxes in halves
    )
    gone = "" if photo is not None else " · the picture cannot be read"
    told = f"{Path(one['file']).name} · {_summary(one)}{gone}"
    return (
        f'<figure class="chart boxed" data-save="{text(name)}"><div class="halves">{drawn}</div>'
        f'<figcaption title="{text(told)}">{text(told)}</figcaption></figure>'
    )


def legend() -> str:
    """Say what the signs mean."""
    parts = ""
    for title, kinds in (("Of a box that was found", BOXES), ("Of an object that was there", OBJECTS)):
        items = "".join(f"<li><b>{SIGNS[kind][0]}</b> {text(SIGNS[kind][1])}</li>" for kind in kinds)
        parts += f'<p class="named">{title}</p><ul class="signs">{items}</ul>'
    return parts


def _object(one: Mapping[str, Any], found: Sequence[Mapping[str, Any]], classes: Sequence[str], turn: int) -> Any:
    """Return kind, label and story of an object."""
    kind, name = _OF_STATE.get(one["state"], one["state"]), classes[one["class"]]
    others = [classes[box["class"]] for box in found if box["kind"] == "confused" and box["about"] == turn]
    more = f" ({', '.join(dict.fromkeys(others))})" if kind == "taken" else ""
    return kind, f"{SIGNS[kind][0]} {_short(name)}".strip(), f"{name}: {SIGNS[kind][1].partition(':')[0]}{more}"


def _box(one: Mapping[str, Any], objects: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> Any:
    kind, name = one["kind"], classes[one["class"]]
    told = f"{name} {one['score']:.2f}: {SIGNS[kind][1].partition(':')[0]}"
    if one["about"] is not None:
        about = classes[objects[one["about"]]["class"]]
        told += f" ({about})" * (kind == "confused") + f", IoU {one['iou']:.2f}"
    return kind, f"{SIGNS[kind][0]} {_short(name)} {one['score']:.2f}", told


def _short(name: str) -> str:
    return name if len(name) <= LONG else f"{name[: LONG - 1]}\N{HORIZONTAL ELLIPSIS}"


def _drawing(
    below: str,
    boxes: Sequence[tuple[Sequence[Number], str, str, str]],
    title: str,
    size: tuple[Number, Number],
    scale: Number,
) -> str:
    """Draw boxes over a photo; the last ones lie on top, names above all boxes."""
    wide, tall = size
    shapes, names, spots = "", "", list[tuple[Number, Number, Number]]()
    for corners, kind, _, told in boxes:
        left, top, right, bottom = (side * scale for side in corners)
        shape = f'x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{bottom - top:.1f}"'
        shapes += f'<g><title>{text(told)}</title><rect class="under" {shape}/><rect class="over {kind}" {shape}/></g>'
    for corners, _, label, _ in reversed(boxes):  # what lies on top has the first choice
        left, top, _, bottom = (side * scale for side in corners)
        spot = _spot(left, (top, bottom), LETTER * len(label), size, spots)
        spots.append((*spot, LETTER * len(label)))
        names = f'<text x="{spot[0]:.1f}" y="{spot[1]:.1f}">{text(label)}</text>{names}'
    counted = text(f"{title}: {'; '.join(told for *_, told in boxes) or 'nothing'}")
    empty = "" if below else f'<rect class="empty" width="{wide:.1f}" height="{tall:.1f}"/>'
    frame = f'viewBox="0 0 {wide:.1f} {tall:.1f}" role="img" aria-label="{counted}"'
    return f"<svg {frame}>{below}{empty}{shapes}{names}</svg>"


def _spot(
    left: Number,
    edges: tuple[Number, Number],
    long: Number,
    size: tuple[Number, Number],
    spots: Sequence[tuple[Number, Number, Number]],
) -> tuple[Number, Number]:
    """Return where a name begins: inside its box above, below, or outside, where no other stands, if there is room."""
    (top, bottom), (wide, tall) = edges, size
    x = max(1.0, min(left + 2, wide - long))
    free = list[Number]()
    for y in (top + HIGH - 2, bottom - 3, top - 3, bottom + HIGH - 2):
        y = min(max(y, HIGH - 2), tall - 2)
        if not any(abs(y - other) < HIGH and x < there + wider and there < x + long for there, other, wider in spots):
            free.append(y)
    return x, free[0] if free else min(max(top + HIGH - 2, HIGH - 2), tall - 2)


def _summary(one: Mapping[str, Any]) -> str:
    """Say how well an image is done, in a line."""
    kinds, states = [each["kind"] for each in one["found"]], [each["state"] for each in one["objects"]]
    words = {"right": "right", "confused": "confused", "double": "double", "loose": "loose"}
    told = [f"{kinds.count(kind)} {word}" for kind, word in words.items() if kind in kinds]
    alarms = kinds.count("alarm")
    told += [f"{alarms} false alarm{'s' * (alarms > 1)}"] if alarms else []
    told += [f"{states.count('missed')} missed"] if "missed" in states else []
    quality = [] if one["quality"] is None else [f"quality {one['quality']:.2f}"]
    return " · ".join([*quality, ", ".join(told)])


def _photo(path: Path) -> str | None:
    """Return the data of a photo, None if it is gone or cannot be read."""
    try:
        image = read_image(path, channels=None, white=None)
    except (UserError, OSError):
        return None
    return data_uri(intensity.for_display(image[None])[0].permute(1, 2, 0), side=SIDE)
