"""What the numbers or colours of a set of masks mean: classes, 255 for none; `masks` reads what stands in a file.

A set is read in one way, found out by looking at all of its masks:

    colours            any mask is in colours, or their palettes number the same colours differently; VOC's border
                       (224, 224, 192) among colours of VOC is 255
    black and white    no mask holds anything but 0 and one other value of 64 or more, also with soft or lossy edges
                       (edges.py), which are refused in other sets; masks of 0 and 1 beside them say the same.
                       Foreground is what is above half of white
    numbers            the value is the class, 255 is none

The folder may name them: classes.txt, one name per line, the first for 0; or classes.json, a list of such names or an
object that gives each name its colour [red, green, blue], and "ignored" one colour or several that do not count.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy
from jaxtyping import UInt8

from dinokit.annotations.edges import MIDDLE, fills, mixtures, on_slopes
from dinokit.annotations.masks import IGNORED, VOC, Colour, Mask, Values, packed, palette, read_mask, say_once
from dinokit.core.files import read_json, read_text
from dinokit.core.messages import UserError

MOST = 255  # classes 0 to 254
_BORDER = packed(palette(256)[IGNORED])
_MANY = 32  # values of a mask, none of them flat, are no classes
_MIXED = 3  # colours of a set that fill no place and lie between two that do are no classes


@dataclass(frozen=True)
class Meaning:
    """What the values of masks stand for."""

    classes: tuple[str, ...]
    colours: tuple[Colour, ...]
    ids: Mapping[int, int]  # value, or 0xRRGGBB in colours -> class or 255
    coloured: bool = False
    white: int | None = None  # of masks in black and white, where nothing else is said
    places: bool = False  # of `read_mask`


def black_and_white(white: int = 255, classes: tuple[str, ...] = ("background", "foreground")) -> Meaning:
    """Return masks whose values above half of white are foreground."""
    return Meaning(classes, ((0, 0, 0), (255, 255, 255)), {0: 0, white: 1}, white=white)


def numbered(classes: Sequence[str], *, first: int = 0, ignored: Iterable[int] = (IGNORED,)) -> Meaning:
    """Return masks whose values count the classes from `first`."""
    ids = dict.fromkeys(ignored, IGNORED) | {first + index: index for index in range(len(classes))}
    return Meaning(tuple(classes), palette(len(classes)), ids)


def class_ids(path: Path, meaning: Meaning) -> UInt8[numpy.ndarray, "height width"]:
    """Read a mask as class ids, or raise UserError: also if it holds a value that is no class."""
    mask = read_mask(path, places=meaning.places)
    if meaning.white is not None:
        return above_half(mask.numbers(path), meaning.white).astype(numpy.uint8)
    if mask.lossy:
        raise UserError(f"the mask {path} is a JPEG or lossy WebP, which change values; save masks of classes as PNG")
    values = mask.colours() if meaning.coloured else mask.numbers(path)
    known = numpy.array(sorted(meaning.ids))
    classes = numpy.array([meaning.ids[value] for value in known.tolist()], dtype=numpy.uint8)
    place = numpy.searchsorted(known, values).clip(max=len(known) - 1)
    strange = values[known[place] != values]
    if len(strange):
        shown = f"#{int(strange[0]):06x}" if meaning.coloured else str(int(strange[0]))
        raise UserError(f"the mask {path} holds {shown}, which is none of the {len(meaning.classes)} classes")
    found: UInt8[numpy.ndarray, "height width"] = classes[place]
    return found


def above_half(values: Values, white: int) -> numpy.ndarray:
    """Return where a mask in black and white is foreground; in one of nothing but 0 and 1, that is 1."""
    found: numpy.ndarray = values > (0 if values.max(initial=0) <= 1 else white // 2)
    return found


def white_of(levels: Mapping[Path, set[int]], soft: Collection[Path]) -> int | None:
    """Return which value is white if masks are in black and white, None if they hold numbers.

    Args:
        levels: the values of every mask.
        soft: those whose values may be edges (`may_be_edges`).

    Raises:
        UserError: if masks contradict each other.
    """
    # masks of nothing but these say nothing: 255 everywhere may be all white or all ignored
    telling = {path: found for path, found in levels.items() if found not in ({0}, {1}, {0, 1}, {IGNORED})}
    single = {
        path: max(found) for path, found in telling.items() if path not in soft and len(found) == 2 and 0 in found
    }
    whites = {value: path for path, value in single.items() if MIDDLE <= value <= IGNORED}
    numbers = [path for path in telling if (path not in soft and path not in single) or single.get(path, 255) < MIDDLE]
    known = {0, IGNORED}.union(*(levels[path] for path in (*numbers, *single)))
    edges = [one for one in soft if one in telling and one not in single and not (numbers and levels[one] <= known)]
    if numbers and edges:
        raise UserError(
            f"{edges[0]} has soft or lossy edges, whose values are no classes, but {numbers[0]} holds numbers; save "
            "masks without smoothing, as PNG"
        )
    if not numbers and not edges and len(whites) > 1:
        both = " and ".join(f"{value} in {path}" for value, path in sorted(whites.items()))
        raise UserError(f"masks hold one value beside 0: {both}; say in classes.json what each is")
    if numbers or not (whites or edges):
        return None
    brightest = max(max(found) for found in telling.values())  # beside it a small thing may have soft pixels alone
    white = brightest if MIDDLE <= brightest <= IGNORED else IGNORED
    if edges:
        more = f" and {len(edges) - 1} more" if len(edges) > 1 else ""
        say_once(f"masks with soft edges ({edges[0].name}{more}): what is above {white // 2} is foreground")
    return white


def may_be_edges(mask: Mask) -> bool:
    """Tell whether what lies between black and white may be edges: lossy, or little of it, and all of it on slopes."""
    return mask.lossy or (not mask.coloured and 0 < 2 * on_slopes(mask.values, mask.levels) < mask.values.size)


def described(folder: Path, masks: Sequence[Path], *, places: bool = True) -> Meaning:
    """Find out what masks mean: by classes.txt or classes.json in the folder, and by looking at all of them.

    Raises:
        UserError: if the file is none of these, or there are more values than classes can be.
    """
    text, table = folder / "classes.txt", folder / "classes.json"
    named = None
    if text.is_file():
        named = numbered(_checked([*filter(None, map(str.strip, read_text(text).splitlines()))], text))
    elif table.is_file():
        named = _from_json(table)
    if named is not None and named.coloured:
        return named
    values, soft, colours = dict[Path, set[int]](), list[Path](), set[int]()
    place_of, colour_at = {0: 0, _BORDER: IGNORED}, dict[int, int]()  # in palettes of known colours
    coloured, by_colour, renumbered, smooth = False, dict[int, int](), None, None
    areas, holders, lossy = set[int](), dict[int, Path](), None  # colours that fill a place; where each is first
    for path in masks:
        mask = read_mask(path, places=places)
        shades = levels = mask.levels
        if mask.coloured:
            coloured = True
            areas |= set(mask.values[:-1, :-1][fills(mask.values)].tolist())
            for level in levels:
                holders.setdefault(level, path)
            lossy = path if mask.lossy else lossy
        else:
            values[path] = set(levels)
            smooth = path if len(levels) > _MANY and on_slopes(mask.values, levels) else smooth
            soft += [path] if may_be_edges(mask) else []
            shades = [int(mask.shades[level]) if mask.shades is not None else level * 0x010101 for level in levels]
            told_apart = mask.shades is not None and len(set(shades)) == len(shades)
            if told_apart and any(by_colour.setdefault(*pair) != pair[1] for pair in zip(shades, levels)):
                renumbered = renumbered or path
            if places and mask.known:
                for place, colour in zip(levels, shades):
                    if place_of.setdefault(colour, place) != place or colour_at.setdefault(place, colour) != colour:
                        return described(folder, masks, places=False)  # they disagree
        colours |= set(shades)
        if coloured and len(colours) > MOST + 1:
            raise UserError(f"{path} brings the masks to over {MOST} colours: photos, or lossy files; use PNG")
    mixed = mixtures(holders, areas) if not VOC.keys() >= holders.keys() else set()  # these lie between each other
    blurred = lossy or (holders[min(mixed)] if len(mixed) >= _MIXED else None)
    if blurred:
        raise UserError(f"{blurred} has soft or lossy edges, whose colours are no classes; save as PNG, unsmoothed")
    if named is None and (coloured or renumbered):
        if renumbered and not coloured:
            say_once(f"palettes number the same colours differently, such as that of {renumbered}: colours count")
        return _coloured({f"#{value:06x}": value for value in sorted(colours)})
    white = white_of(values, soft) if named is None or len(named.classes) == 2 else None
    if white is not None:
        named = black_and_white(white, *([named.classes] if named else []))
    if named is not None:
        return replace(named, places=places)
    if smooth:
        raise UserError(f"{smooth} has over {_MANY} values and none of them flat: no classes; save masks unsmoothed")
    largest = max(set[int]().union(*values.values()) - {IGNORED}, default=0)
    if largest >= MOST:
        raise UserError(f"masks in {folder} hold the value {largest}; classes are 0 to {MOST - 1}, 255 is ignored")
    return replace(numbered([str(value) for value in range(largest + 1)]), places=places)


def _coloured(colours: Mapping[str, int], ignored: Iterable[int] = ()) -> Meaning:
    if not ignored and _BORDER in colours.values() and len(colours) > 1 and VOC.keys() >= set(colours.values()):
        say_once("masks in colours of Pascal VOC: its border (224, 224, 192) does not count")
        ignored = (_BORDER,)
    kept = {name: value for name, value in colours.items() if value not in ignored}
    triples = tuple((value >> 16, value >> 8 & 255, value & 255) for value in kept.values())
    ids = dict.fromkeys(ignored, IGNORED) | {value: index for index, value in enumerate(kept.values())}
    return Meaning(tuple(kept), triples, ids, coloured=True)


def _checked(names: Sequence[str], file: Path) -> Sequence[str]:
    """Return the names of classes if there are some, not too many, and each once."""
    if not 0 < len(names) <= MOST:
        raise UserError(f"{file} names {len(names) or 'no'} classes; expected 1 to {MOST}, the first for the value 0")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{file} names '{twice}' {names.count(twice)} times; give each class a name of its own")
    return names


def _from_json(path: Path) -> Meaning:
    plain: Any = read_json(path)
    if isinstance(plain, list) and all(isinstance(name, str) for name in plain):
        return numbered(_checked(plain, path))
    if not isinstance(plain, dict):
        raise UserError(f"{path} is neither a list of names nor an object of name: [red, green, blue]")
    without = plain.pop("ignored", [])
    several = without if isinstance(without, list) and all(isinstance(one, list) for one in without) else [without]
    pairs = [*plain.items(), *(("ignored", colour) for colour in several)]
    for name, colour in pairs:
        if not (isinstance(colour, list) and len(colour) == 3 and all(type(c) is int and 0 <= c < 256 for c in colour)):
            raise UserError(f"{path}: expected [red, green, blue] of 0 to 255 for '{name}', got {str(colour)[:40]}")
    values = [packed(colour) for _, colour in pairs]
    for (name, colour), value in zip(pairs, values):
        if values.count(value) > 1:
            raise UserError(f"{path} gives {colour} to '{name}' and to another; give each class a colour of its own")
    return _coloured(dict(zip(_checked(list(plain), path), values)), values[len(plain) :])
