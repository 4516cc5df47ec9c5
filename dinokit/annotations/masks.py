"""Masks: what stands in every pixel of a file, whatever the file format made of it; `meaning` says what it stands for.

    1 bit, true and false    0 and 255: white is 255 in every depth; 16 bits that are 8 bits widened are 8 bits again
    palette                  the index; but the colour where a program that keeps pictures alone renumbered it: grays
                             that nobody chose to be seen, as optimisers of PNG and writers of GIF leave them, or
                             colours of VOC and DAVIS or of YouTube-VOS at other places. In a folder these are the
                             owner's if all palettes agree, black is 0 and VOC's border no class: the index
    colours                  0xRRGGBB, unless all are gray
    transparency             what cannot be seen is 0; where the colour is one everywhere the mask is the alpha
    -1, not a number         255

EXIF's orientation is applied, as to images: a mask is drawn on the picture as it is shown.
"""

import io
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy
from jaxtyping import Integer
from PIL import Image, ImageOps

from dinokit.annotations.pairing import reading
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
_TINGE = 24  # between the channels of a gray that was saved as JPEG or lossy WebP


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
