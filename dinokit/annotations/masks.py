"""Masks: what stands in every pixel of a file, and what the numbers or colours of a set mean: classes, 255 for none.

What stands in a pixel, whatever the file format made of it:

    1 bit, true and false    0 and 255: white is 255 in every depth; 16 bits that are 8 bits widened are 8 bits again
    palette                  the index; but the colour where a program that keeps pictures alone renumbered it: grays
                             that nobody chose to be seen, as optimisers of PNG and writers of GIF leave them, or
                             colours of VOC and DAVIS or of YouTube-VOS at other places. In a folder these are the
                             owner's if all palettes agree, black is 0 and VOC's border no class: the index
    colours                  0xRRGGBB, unless all are gray
    transparency             what cannot be seen is 0; where the colour is one everywhere the mask is the alpha
    -1, not a number         255

EXIF's orientation is applied, as to images: a mask is drawn on the picture as it is shown.

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

import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy
from jaxtyping import Integer, UInt8
from PIL import Image, ImageOps

from dinokit.annotations.edges import MIDDLE, fills, mixtures, on_slopes
from dinokit.annotations.pairing import reading
from dinokit.core.files import read_json, read_text
from dinokit.core.messages import BadImage, UserError, info
from dinokit.images.decode import describe, reasons, stored

IGNORED = 255
Colour = tuple[int, int, int]
Values = Integer[numpy.ndarray, "height width"]
_SEEN = 32  # from one gray to the next, where a person chose them
_BASE = numpy.array([1 << 16, 1 << 8, 1], dtype=numpy.int32)  # of 0xRRGGBB


def palette(count: int) -> tuple[Colour, ...]:
    """Return well separated colours, the first black: the bits of the class spread over those of the channels (VOC)."""

    def spread(number: int) -> int:
        return sum((number >> (3 * bit) & 1) << (7 - bit) for bit in range(8))

    return tuple((spread(number), spread(number >> 1), spread(number >> 2)) for number in range(count))


def packed(colour: Iterable[int]) -> int:
    """Return a colour as 0xRRGGBB."""
    red, green, blue = colour
    return red << 16 | green << 8 | blue


VOC = {packed(colour): number for number, colour in enumerate(palette(256))}  # also of DAVIS and MOSE
_TEN = (0xEC5F67, 0xF99157, 0xFAC863, 0x99C794, 0x62B3B2, 0x6699CC, 0xC594C5, 0xAB7967, 0xFFFFFF, 0x65737E)
YOUTUBE = {colour: number for number, colour in enumerate((0, *_TEN))}
MOST = 255  # classes 0 to 254
_BORDER = packed(palette(256)[IGNORED])
_TINGE = 24  # between the channels of a gray that was saved as JPEG or lossy WebP
_MANY = 32  # values of a mask, none of them flat, are no classes
_MIXED = 3  # colours of a set that fill no place and lie between two that do are no classes


@dataclass(frozen=True)
class Mask:
    """What a file holds."""

    values: Values  # numbers, or 0xRRGGBB
    coloured: bool = False
    shades: Integer[numpy.ndarray, " index"] | None = None  # 0xRRGGBB of every number, of a palette
    lossy: bool = False
    known: bool = False  # the palette holds colours of VOC or YouTube-VOS alone

    @cached_property
    def levels(self) -> list[int]:
        """The values that occur, rising."""
        many = self.values.max() > IGNORED
        found = numpy.unique(self.values) if many else numpy.flatnonzero(numpy.bincount(self.values.ravel()))
        return list(found.tolist())

    def colours(self) -> Values:
        """Return 0xRRGGBB of every pixel."""
        if self.coloured:
            return self.values
        shown: Values = self.values * 0x010101 if self.shades is None else self.shades[self.values]
        return shown

    def numbers(self, path: Path) -> Values:
        """Return the number of every pixel, of a known palette that of its place; refuse other colours."""
        if not self.coloured:
            return self.values
        known = next((one for one in (VOC, YOUTUBE) if one.keys() >= set(self.levels)), None)
        if known is None:
            raise UserError(f"{path} holds colours; expected a number in every pixel, as a gray or paletted PNG")
        levels, inverse = numpy.unique(self.values, return_inverse=True)
        found: Values = numpy.array([known[level] for level in levels.tolist()])[inverse].reshape(self.values.shape)
        return found


def read_mask(path: Path, *, places: bool = False) -> Mask:
    """Read a mask; with `places` by the index also where a palette holds colours of a known set at other places.

    Raises:
        UserError: if it cannot be read, or holds no whole numbers.
    """
    with reading("mask", path):
        data = path.read_bytes()
        about = describe(data)
        lossy = about.format in ("JPEG", "MPO") or (about.format == "WEBP" and b"VP8L" not in data)
        if about.mode in ("", "1", "L", "F") or about.mode.startswith("I"):
            return Mask(_whole(data), lossy=lossy)
        # from bytes: Pillow 12 maps a TIFF that lies on its side into memory with rows of a wrong length
        with reasons(), Image.open(io.BytesIO(data)) as image:
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            if image.mode == "P":
                return _paletted(image, path.parent, places)
            seen = numpy.array(image.convert("RGBA")).astype(numpy.int32)
    colours, alpha = seen[..., :3] @ _BASE, seen[..., 3]
    if alpha.max() > 0 and alpha.min() < IGNORED:
        if (colours == colours[0, 0]).all():
            return Mask(alpha)
        colours[alpha < 128] = 0
    spread = numpy.ptp([colours >> 16, colours >> 8 & 255, colours & 255], axis=0).max()
    gray = spread <= (_TINGE if lossy else 0)
    return Mask(colours >> 8 & 255 if gray else colours, coloured=not gray, lossy=lossy)


def _whole(data: bytes) -> Values:
    found = stored(data)
    numbers = found.numbers
    if numbers.shape[2] != 1:
        raise BadImage(f"expected one number per pixel, got {numbers.shape[2]}")
    if numbers.dtype.kind == "f":
        numbers = numpy.where(numpy.isnan(numbers), IGNORED, numbers)
        if not (numbers == numpy.rint(numbers)).all():
            raise BadImage("fractions, expected whole numbers")
    if max(-int(numbers.min()), int(numbers.max())) >= 1 << 31:
        raise BadImage("numbers of more than 31 bits")
    values: Values = numbers[..., 0].astype(numpy.int32)
    if values.max() > IGNORED and not (values % 257).any():
        values //= 257
    values[(values == -1) | (False if found.missing is None else found.missing[..., 0])] = IGNORED
    return values


def _paletted(image: Image.Image, folder: Path, places: bool) -> Mask:
    indices = numpy.asarray(image).astype(numpy.int32)
    flat = numpy.array(image.getpalette("RGB"), dtype=numpy.int32).reshape(-1, 3)
    shades = numpy.zeros(256, dtype=numpy.int32)
    shades[: len(flat)] = flat @ _BASE
    used = numpy.flatnonzero(numpy.bincount(indices.ravel()))
    if used[-1] >= len(flat) or len(set(shades[used].tolist())) < len(used):  # nobody gave it colours
        return Mask(indices, shades=shades)
    numbers, known = used, next((one for one in (VOC, YOUTUBE) if one.keys() >= set((flat @ _BASE).tolist())), None)
    if (flat == flat[:, :1]).all():
        grays = flat[used, 0]
        steps = numpy.diff(numpy.sort(grays))
        made_to_be_seen = len(steps) and steps.min() >= _SEEN and steps.max() - steps.min() < 3
        if set(grays.tolist()) <= {0, IGNORED} or image.format == "GIF" or not made_to_be_seen:
            numbers = grays
    elif known and not places and not any(all(one.get(int(shades[n])) == n for n in used) for one in (VOC, YOUTUBE)):
        numbers = numpy.array([known[int(shades[index])] for index in used])
    if (numbers == used).all():
        return Mask(indices, shades=shades, known=known is not None)
    say_once(f"palettes of masks in {folder} were renumbered by a program that keeps the picture: their colours count")
    table, again = numpy.zeros((2, 256), dtype=numpy.int32)
    table[used], again[numbers] = numbers, shades[used]
    return Mask(table[indices], shades=again)


say_once = cache(info)  # what is assumed of a set, though it is opened for every split and every baseline


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
