"""Encoded bytes -> pixels: every format that people keep images in, or one clear reason why not.

What varies between files is settled here once, so that nothing downstream has to know about it: transparency is laid on
white, palettes and CMYK become RGB, the EXIF orientation is applied. Depth is kept: 8 bits come back as uint8, anything
deeper as float32, where 16-bit integers are divided by 65535 (1.0 = white, as uint8's 255) and floats are as stored.
Large JPEGs are decoded at the smallest DCT scale whose short side is still sufficient (ITU-T T.81; Pillow's `draft`).
AVIF has up to 12 bits, of which Pillow gives 8.
"""

import ctypes
import io
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from logging import NullHandler, getLogger
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from dinokit.images import arrays, intensity
from dinokit.images.arrays import Pixels
from dinokit.images.bad_image import BadImage, reasons

__all__ = ["EXTENSIONS", "About", "BadImage", "decode", "describe"]

# read in any case: .JPG too
EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".npy")
# by content; leaves out PostScript, which runs code
_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")
_SCANS = 100  # of a JPEG; ten are many, and with thousands a small file is decoded for hours
_DEEP_GRAY = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
_GRAY = ("1", "L", "LA", "La")
_OTHER_ORDER = {"B": "L", "L": "B", "N": "B" if np.little_endian else "L"}
_PLANES, _SAMPLE_BITS = 284, 258  # TIFF tags


def decode(data: bytes, *, channels: int | None = 3, min_side: int | None = None) -> intensity.Image:
    """Decode one image.

    Args:
        data: the whole file.
        channels: 1 = luminance, 3 = RGB; any other number takes the bands of the file as they are and must match them.
            None: gray images have 1, arrays what they have, all others 3.
        min_side: a JPEG may come back smaller, as long as its short side keeps this many pixels.

    Raises:
        BadImage: empty, unreadable, truncated, too large (Pillow's limit against bombs), not finite, or a wrong number
            of channels.
    """
    with reasons():
        pixels = _pixels(data, channels=channels, min_side=min_side)
        if 0 in pixels.shape:
            raise BadImage("an image without pixels")
    return torch.from_numpy(pixels).permute(2, 0, 1)  # [channel, height, width], channels last in memory


@dataclass(frozen=True)
class About:
    """What the header of a file says."""

    format: str
    mode: str  # Pillow's, ";16" behind it for 16-bit colours; empty for arrays


def describe(data: bytes) -> About:
    """Say what kind of file this is, without decoding it.

    Raises:
        BadImage: if it is none.
    """
    with reasons():
        if data.startswith(arrays.NPY):
            return About("NPY", "")
        try:
            with _open(data) as image:
                return About(image.format or "", image.mode + (";16" if _is_deep_colour(image) else ""))
        except UnidentifiedImageError:
            if data.startswith(arrays.TIFF):
                return About("TIFF", "")
            raise


def _pixels(data: bytes, *, channels: int | None, min_side: int | None) -> Pixels:
    if data.startswith(arrays.NPY):
        return arrays.with_channels(arrays.read_npy(data, channels=channels), channels)
    try:
        opened = _open(data)
    except UnidentifiedImageError:
        if data.startswith(arrays.TIFF):
            return arrays.with_channels(arrays.read_tiff(data), channels)
        raise
    with opened:
        if opened.format == "TIFF" and _needs_tifffile(opened, channels):
            return arrays.with_channels(arrays.read_tiff(data), channels)
        if opened.format in ("JPEG", "MPO") and data.count(b"\xff\xda") > _SCANS:
            raise BadImage(f"a JPEG of more than {_SCANS} scans")
        if _is_deep_colour(opened):
            colours = _deep_colours(opened, data)
            return arrays.with_channels(_on_white(colours) if channels in (None, 1, 3) else colours, channels)
        if opened.mode in _DEEP_GRAY:
            return arrays.with_channels(_deep_gray(opened), channels)
        if min_side is not None:
            opened.draft(None, (min_side, min_side))
        return _eight_bits(_upright(opened), channels)


def _eight_bits(image: Image.Image, channels: int | None) -> UInt8[np.ndarray, "height width channel"]:
    if channels not in (None, 1, 3):
        if len(image.getbands()) != channels:
            raise BadImage(f"{channels} channels wanted, the file holds {image.mode}")
        pixels = np.array(image)
        return pixels.reshape(*pixels.shape[:2], channels)
    gray = channels == 1 or (channels is None and image.mode in _GRAY)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    mode = "L" if gray else "RGB"
    pixels = np.array(image if image.mode == mode else image.convert(mode))  # converting would copy
    return pixels.reshape(*pixels.shape[:2], -1)


def _deep_gray(opened: Image.Image) -> Pixels:
    raw, transparent = _raw_mode(opened), opened.info.get("transparency")
    image = _upright(opened)
    values = np.asarray(image)[:, :, None]  # [height, width, 1]
    if image.mode == "I":  # Pillow has no other place for these
        kind = {"I;16B": np.uint16, "I;16S": np.int16, "I;16BS": np.int16}.get(raw, np.int32)
        values = values.astype(kind)
    values = values.astype(values.dtype.newbyteorder("="))
    pixels = arrays.scaled(values, white=4095.0 if raw == "I;12" else None)
    if isinstance(transparent, int):
        pixels[values == transparent] = 1
    return pixels


def _deep_colours(opened: Image.Image, data: bytes) -> Float32[np.ndarray, "height width channel"]:
    """Read 16-bit colours, of which Pillow keeps the high bytes.

    Told that the bytes come in the other order it keeps the low ones, so that two readings make the whole.
    """
    raw, transparent = _raw_mode(opened), opened.info.get("transparency")
    arrays.check_size(opened.height, opened.width, channels=4, dtype=np.dtype(np.float32))
    if raw == "LA;16B":  # as four bytes per pixel: two of gray, two of alpha
        quads = np.asarray(_upright(_unpacked(opened, "RGBA"))).astype(np.uint16)
        values = quads[:, :, ::2] * np.uint16(256) + quads[:, :, 1::2]
    else:
        values = np.asarray(_upright(opened)).astype(np.uint16) * np.uint16(256)
        with _open(data) as again:
            values += np.asarray(_upright(_unpacked(again, raw[:-1] + _OTHER_ORDER[raw[-1]])))
    pixels = arrays.scaled(values)
    if isinstance(transparent, tuple):
        pixels[(values == transparent).all(axis=2)] = 1
    return pixels


def _on_white(
    pixels: Float32[np.ndarray, "height width channel"],
) -> Float32[np.ndarray, "height width colour"]:
    if pixels.shape[2] in (1, 3):
        return pixels
    alpha = pixels[:, :, -1:]
    mixed: np.ndarray = pixels[:, :, :-1] * alpha + (1 - alpha)
    return mixed


def _upright(opened: Image.Image) -> Image.Image:
    opened.load()
    ImageOps.exif_transpose(opened, in_place=True)  # without a copy where there is nothing to turn
    return opened


def _open(data: bytes) -> Image.Image:
    if not data:
        raise BadImage("empty file (0 bytes)")
    return Image.open(io.BytesIO(data), formats=_formats())


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
    return image.mode not in _DEEP_GRAY and _raw_mode(image)[-4:-1] == ";16"


def _needs_tifffile(image: Any, channels: int | None) -> bool:
    """Tell whether Pillow would misread a TIFF: other bands than wanted; 16 bits in planes, premultiplied, or CMYK."""
    if channels not in (None, 1, 3) and len(image.getbands()) != channels:
        return True
    if image.mode in _DEEP_GRAY or max(image.tag_v2.get(_SAMPLE_BITS, (1,))) <= 8:
        return False
    return image.tag_v2.get(_PLANES, 1) != 1 or _raw_mode(image)[:-1] not in ("RGB;16", "RGBA;16")


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
