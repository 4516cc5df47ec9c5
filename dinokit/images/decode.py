"""Encoded bytes -> pixels: every format that people keep images in, or one clear reason why not.

What varies between files is settled here once, so that nothing downstream has to know about it: transparency is laid on
white, palettes and CMYK become RGB, the orientation is applied, as far as it can be read. Depth is kept: 8 bits come
back as uint8, anything deeper as float32 (`arrays.py` says what its numbers mean). Large JPEGs are decoded at the
smallest DCT scale whose short side is still sufficient (ITU-T T.81; Pillow's `draft`). AVIF has up to 12 bits, of which
Pillow gives 8. Pillow reads what it reads right, tifffile the other TIFFs.
"""

import ctypes
import io
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from logging import NullHandler, getLogger
from threading import Lock
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from dinokit.core.messages import BadImage
from dinokit.images import arrays, intensity, tiff
from dinokit.images.arrays import Stored

# by content; leaves out PostScript, which runs code
_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")
_SCANS = 100  # of a JPEG; ten are many, and with thousands a small file is decoded for hours
_GRAY = ("1", "L", "LA", "La")
_JPEG = b"\xff\xd8"
_PNG = b"\x89PNG\r\n\x1a\n"
_EXIF_TEXT = b"Raw profile type exif\0"
_LONGEST = 1 << 16  # bytes of an orientation
_REASON = 200  # letters
_OTHER_ORDER = {"B": "L", "L": "B", "N": "B" if np.little_endian else "L"}
# of mode I, where Pillow keeps what has no mode of its own: how the numbers lie in the file -> what they are
_INTEGERS = {"I;16B": np.uint16, "I;16S": np.int16, "I;16BS": np.int16, "I;32N": np.uint32}


def decode(
    data: bytes,
    *,
    channels: int | None = 3,
    min_side: int | None = None,
    white: float | int | None = None,
    holes: bool = False,
) -> intensity.Image:
    """Decode one image.

    Args:
        data: the whole file.
        channels: 1 = luminance, 3 = RGB; any other number takes the bands of the file as they are and must match them.
            None: gray images have 1, arrays what they have, all others 3.
        min_side: a JPEG may come back smaller, as long as its short side keeps this many pixels.
        white: the value that stands for 1.0 in files of more than 8 bits; None: the largest of integers, 1.0 of floats.
        holes: NaN where a TIFF has no data, in float32; else such pixels take the mean of the others.

    Raises:
        BadImage: empty, unreadable, truncated, too large (Pillow's limit against bombs), not finite, or a wrong number
            of channels.
    """
    with reasons():
        found = _stored(data, channels=channels, min_side=min_side)
        if 0 in found.values.shape:
            raise BadImage("an image without pixels")
        pixels = found.picture(channels, white=white, holes=holes)
    return torch.from_numpy(pixels).permute(2, 0, 1)  # [channel, height, width], channels last in memory


def upright_size(data: bytes, decoded: intensity.Image) -> tuple[int, int]:
    """Return the width and height of the whole picture, where `decode` may have given a smaller one."""
    height, width = decoded.shape[1:]
    return shown_size(data) if data.startswith(_JPEG) else (width, height)


def shown_size(data: bytes) -> tuple[int, int]:
    """Return the width and height of a picture as it is shown; pixels are decoded only of a TIFF or an array."""
    if data.startswith((arrays.NPY, *tiff.SIGNATURES)):
        height, width = decode(data, channels=None).shape[1:]
        return width, height
    with reasons(), _open(data) as image:
        width, height = image.size
        turn = _turn(image)
        return (height, width) if isinstance(turn, int) and 5 <= turn <= 8 else (width, height)


def size_of(data: bytes) -> tuple[int, int]:
    """Return the width and height that the header of a file states, before any pixel is decoded; BadImage without one.

    Of an array in a .npy file, which holds its pixels as they are: as many as there are bytes, in one row.
    """
    with reasons():
        if data.startswith(arrays.NPY):
            return len(data), 1
        try:
            with _open(data) as image:
                return image.size
        except UnidentifiedImageError:
            if not data.startswith(tiff.SIGNATURES):
                raise
            return tiff.size_of(data)


def stored(data: bytes) -> Stored:
    """Read the numbers of a file that are no picture: the classes of a mask, distances.

    Palettes stay indices, transparency is left out, gray is as PNG and TIFF define it (a bit is 0 or 255).
    """
    with reasons():
        return _stored(data, channels=None, min_side=None, indices=True)


@contextmanager
def reasons() -> Iterator[None]:
    """Turn whatever goes wrong with a file into one line; decoders raise almost anything on hostile bytes."""
    try:
        with _quiet():
            yield
    except BadImage:
        raise
    except UnidentifiedImageError as error:
        raise BadImage("not an image of a known format") from error
    except Exception as error:  # one bad file must never end a run
        quoted = " ".join(f"{type(error).__name__}: {error}".split())  # from the file, to be shown on a terminal
        line = "".join(letter if letter.isprintable() else "?" for letter in quoted)
        raise BadImage(line if len(line) <= _REASON else f"{line[:_REASON]}...") from error


@dataclass(frozen=True)
class About:
    """What the header of a file says."""

    format: str
    mode: str  # Pillow's, ";16" behind it for 16-bit colours; empty for arrays


def describe(data: bytes) -> About:
    """Say what kind of file this is, without decoding it; BadImage if it is none."""
    with reasons():
        if data.startswith(arrays.NPY):
            return About("NPY", "")
        try:
            with _open(data) as image:
                return About(image.format or "", image.mode + (";16" if _is_deep_colour(image) else ""))
        except UnidentifiedImageError:
            if data.startswith(tiff.SIGNATURES):
                return About("TIFF", "")
            raise


def _stored(data: bytes, *, channels: int | None, min_side: int | None, indices: bool = False) -> Stored:
    if data.startswith(arrays.NPY):
        return arrays.read_npy(data, channels=channels)
    opened: Any = None
    try:
        opened = _open(data)
    except UnidentifiedImageError:
        if not data.startswith(tiff.SIGNATURES):
            raise
    if opened is None or opened.format == "TIFF":
        found = tiff.read_tiff(data, channels=channels, seen=opened)
        if found is not None:
            return found
    with opened:
        if opened.format in ("JPEG", "MPO") and data.count(b"\xff\xda") > _SCANS:
            raise BadImage(f"a JPEG of more than {_SCANS} scans")
        if _is_deep_colour(opened):
            return _deep_colours(opened, data)
        if opened.mode in tiff.DEEP_GRAY:
            return _deep_gray(opened)
        if min_side is not None:
            opened.draft(None, (min_side, min_side))
        return _eight_bits(opened, channels, indices=indices)


def _eight_bits(opened: Any, channels: int | None, *, indices: bool) -> Stored:
    """Convert to the channels that are wanted; with `indices`, to what a mask holds."""
    opened.load()
    image: Image.Image = opened
    tags = opened.tag_v2 if opened.format == "TIFF" else {}
    negative, missing = image.mode in ("1", "L") and tags.get(tiff.PHOTOMETRIC) == 0, None  # as Pillow has inverted it
    if tiff.NODATA in tags:
        values = ~np.asarray(image) if negative else np.asarray(image)
        colours = sum(band not in "Aa" for band in image.getbands())
        missing = arrays.without_data(values.reshape(*values.shape[:2], -1), tags[tiff.NODATA], colours=colours)
    if indices:
        mode = image.mode if image.mode in ("P", "1") else "L" if image.mode in _GRAY else "RGB"
    elif channels not in (None, 1, 3):
        if len(image.getbands()) != channels:
            raise BadImage(f"{channels} channels wanted, the file holds {image.mode}")
        mode = image.mode
    else:
        mode = "L" if channels == 1 or (channels is None and image.mode in _GRAY) else "RGB"
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    pixels = np.array(image if image.mode == mode else image.convert(mode))  # converting would copy
    pixels, turn = pixels.reshape(*pixels.shape[:2], -1), _turn(opened)
    values = arrays.turned(~pixels if negative else pixels, turn)
    return Stored(values=values, negative=negative, missing=None if missing is None else arrays.turned(missing, turn))


def _deep_gray(opened: Any) -> Stored:
    raw, transparent = _raw_mode(opened), opened.info.get("transparency")
    tags = opened.tag_v2 if opened.format == "TIFF" else {}
    nodata, negative = tags.get(tiff.NODATA), tags.get(tiff.PHOTOMETRIC) == 0
    opened.load()
    values = np.asarray(opened)[:, :, None]  # [height, width, 1]
    if opened.mode == "I":
        values = values.astype(_INTEGERS.get(raw, np.int32))
    values = arrays.turned(values.astype(values.dtype.newbyteorder("=")), _turn(opened))
    return Stored(
        values=values,
        white=4095.0 if raw == "I;12" else None,
        negative=negative,
        colours=1,
        clear=values[:, :, 0] == transparent if isinstance(transparent, int) else None,
        missing=arrays.without_data(values, nodata, colours=1),
    )


def _deep_colours(opened: Any, data: bytes) -> Stored:
    """Read 16-bit colours, of which Pillow keeps the high bytes.

    Told that the bytes come in the other order it keeps the low ones, so that two readings make the whole.
    """
    raw, transparent = _raw_mode(opened), opened.info.get("transparency")
    nodata = opened.tag_v2.get(tiff.NODATA) if opened.format == "TIFF" else None
    arrays.check_size(opened.height, opened.width, channels=4, dtype=np.dtype(np.float32))
    if raw == "LA;16B":  # as four bytes per pixel: two of gray, two of alpha
        quads = np.asarray(_unpacked(opened, "RGBA")).astype(np.uint16)
        values = quads[:, :, ::2] * np.uint16(256) + quads[:, :, 1::2]
    else:
        values = np.asarray(opened).astype(np.uint16) * np.uint16(256)
        with _open(data) as again:
            values += np.asarray(_unpacked(again, raw[:-1] + _OTHER_ORDER[raw[-1]]))
    values = arrays.turned(values, _turn(opened))
    alpha = values.shape[2] in (2, 4)
    colours = values.shape[2] - alpha
    return Stored(
        values=values,
        colours=colours,
        alpha="straight" if alpha else "",
        clear=(values == transparent).all(axis=2) if isinstance(transparent, tuple) else None,
        missing=arrays.without_data(values, nodata, colours=colours),
    )


def _turn(loaded: Any) -> object:
    """Return the orientation of a loaded image; damaged metadata says nothing, and must not cost the picture."""
    with suppress(Exception):
        return loaded.getexif().get(arrays.ORIENTATION)
    return None


def _open(data: bytes) -> Image.Image:
    if not data:
        raise BadImage("empty file (0 bytes)")
    return Image.open(io.BytesIO(_plain_png(data) if data.startswith(_PNG) else data), formats=_formats())


def _plain_png(data: bytes) -> bytes:
    """Return a PNG without what a picture does not need: odd metadata must not cost what every viewer shows.

    Kept are the critical chunks, and of the others, where their checksum is right, those that change what is seen: tRNS
    (transparency) and the orientation, in eXIf or where older programs wrote it, as text "Raw profile type exif". All
    else goes, as libpng does with what it cannot read: colour profiles and gamma, which are not applied here to any
    format; texts; the further frames of an animation. What is broken otherwise stays as it is.
    """
    view, place = memoryview(data), len(_PNG)
    kept = [view[:place]]
    bits, colours = data[24:26] if len(data) > 25 else (8, 0)  # 0 gray, 2 RGB, 3 palette; with alpha there is no tRNS
    while place + 12 <= len(data):
        length, kind = int.from_bytes(view[place : place + 4]), bytes(view[place + 4 : place + 8])
        end = place + 12 + length
        if end > len(data) or not kind.isalpha():
            break
        if kind[:1].isupper() or _counts(kind, view[place + 8 : end - 4], view[end - 4 : end], colours):
            kept.append(view[place:end])
            if kind == b"tRNS" and colours == 0 and bits in (2, 4):  # Pillow compares it with values brought to 8 bits
                clear = view[end - 5] * 255 // (2**bits - 1)
                body = kind + bytes([0, clear % 256])
                kept[-1] = memoryview(b"\0\0\0\2" + body + zlib.crc32(body).to_bytes(4))
        place = end
        if kind == b"IEND":
            break
    return b"".join([*kept, view[place:]])


def _counts(kind: bytes, body: memoryview, checksum: memoryview, colours: int) -> bool:
    """Tell whether a chunk that may be left out changes what is seen."""
    if kind == b"tRNS":
        fits = {0: len(body) == 2, 2: len(body) == 6, 3: 1 <= len(body) <= 256}.get(colours, False)
    elif kind in (b"tEXt", b"zTXt"):
        fits = len(body) <= _LONGEST and bytes(body[: len(_EXIF_TEXT)]) == _EXIF_TEXT
    else:
        fits = kind == b"eXIf" and len(body) <= _LONGEST
    return fits and zlib.crc32(body, zlib.crc32(kind)) == int.from_bytes(checksum)


def _raw_mode(image: Image.Image) -> str:
    """Return how the pixels lie in the file, where Pillow says it; asked before they are loaded."""
    tiles = getattr(image, "tile", [])
    arguments = tiles[0].args if tiles else ""
    raw = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return raw if isinstance(raw, str) else ""


def _unpacked(image: Any, raw: str) -> Image.Image:
    """Make Pillow read the pixels as if they lay otherwise in the file."""
    changed = [
        tile._replace(args=(raw, *tile.args[1:]) if isinstance(tile.args, tuple) else raw) for tile in image.tile
    ]
    image.tile = changed
    read: Image.Image = image
    return read


def _is_deep_colour(image: Image.Image) -> bool:
    """Tell whether colours have 16 bits each; BGR;16 are 16 bits together."""
    return image.mode not in tiff.DEEP_GRAY and _raw_mode(image)[-4:-1] == ";16"


@cache
def _formats() -> tuple[str, ...]:
    """Wake Pillow's decoders, and silence them: what is wrong with a file is said by the exception."""
    Image.init()
    getLogger("PIL").addHandler(NullHandler())  # else Python would print its complaints
    with suppress(AttributeError, OSError):  # libtiff writes its own to standard error; not where it is linked in
        library = ctypes.CDLL(Image.core.__file__)  # type: ignore[attr-defined]
        library.TIFFSetErrorHandler(None)
        library.TIFFSetWarningHandler(None)
    return tuple(name for name in _FORMATS if name in Image.OPEN)


_lock = Lock()
_within = 0
_filters = warnings.catch_warnings()


@contextmanager
def _quiet() -> Iterator[None]:
    """Ignore what Pillow warns of, odd metadata and large sizes: of no use to someone training on a million files.

    Filters are shared by all threads: the first to come sets them, the last to go takes them back.
    """
    global _within, _filters
    with _lock:
        if _within == 0:
            _filters = warnings.catch_warnings()
            _filters.__enter__()
            warnings.simplefilter("ignore")
        _within += 1
    try:
        yield
    finally:
        with _lock:
            _within -= 1
            if _within == 0:
                _filters.__exit__(None, None, None)
