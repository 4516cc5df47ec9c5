"""Encoded bytes -> uint8 pixels: every format of Pillow that people keep photos in, or one clear reason why not.

What varies between files is settled here once, so that nothing downstream has to know about it: transparency is laid on
white, palettes and CMYK become RGB, the EXIF orientation is applied, 16-bit and float images are scaled to 8 bits.
Large JPEGs are decoded at the smallest DCT scale whose short side is still sufficient (ITU-T T.81; Pillow's `draft`).
"""

import io
import warnings
from functools import cache

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")  # read in any case: .JPG too
_FORMATS = (
    "JPEG",
    "MPO",
    "PNG",
    "WEBP",
    "BMP",
    "GIF",
    "TIFF",
    "AVIF",
)  # by content; leaves out PostScript, which runs code
_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N", "I")


class BadImage(Exception):
    """An image that cannot be used; the message is the reason, one line."""


def decode(data: bytes, *, channels: int = 3, min_side: int | None = None) -> UInt8[Tensor, "channel height width"]:
    """Decode one image.

    Args:
        data: the whole file.
        channels: 1 = luminance, 3 = RGB; any other number takes the bands of the file as they are and must match them.
        min_side: a JPEG may come back smaller, as long as its short side keeps this many pixels.

    Raises:
        BadImage: empty, unreadable, truncated, too large (Pillow's limit against bombs), or a wrong number of bands.
    """
    if not data:
        raise BadImage("empty file (0 bytes)")
    try:
        # Pillow warns about odd metadata and large sizes; neither is of use to someone training on a million files
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pixels = _pixels(data, channels=channels, min_side=min_side)
    except BadImage:
        raise
    except UnidentifiedImageError as error:
        raise BadImage("not an image of a known format") from error
    except Exception as error:  # decoders raise almost anything on hostile bytes; one bad file must never end a run
        raise BadImage(" ".join(f"{type(error).__name__}: {error}".split())) from error
    return torch.from_numpy(pixels).permute(2, 0, 1)  # [channel, height, width], channels last in memory


def _pixels(data: bytes, *, channels: int, min_side: int | None) -> UInt8[np.ndarray, "height width channel"]:
    with Image.open(io.BytesIO(data), formats=_formats()) as opened:
        if min_side is not None:
            opened.draft(None, (min_side, min_side))
        image: Image.Image = ImageOps.exif_transpose(opened)
        image.load()
    if channels not in (1, 3):
        if len(image.getbands()) != channels:
            raise BadImage(f"{channels} channels of 8 bits wanted, the file holds {image.mode}")
        return np.array(image)
    if image.mode in _SIXTEEN_BITS or image.mode == "F":
        gray = _eight_bits(np.asarray(image), floating=image.mode == "F")
        return np.repeat(gray[:, :, None], channels, axis=2)
    pixels = np.array(_opaque(image).convert("L" if channels == 1 else "RGB"))
    return pixels.reshape(*pixels.shape[:2], channels)


def _opaque(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def _eight_bits(gray: np.ndarray, *, floating: bool) -> UInt8[np.ndarray, "height width"]:
    """Scale 16-bit values by 1/257, float values by 255 if they lie in [0, 1]; NaN is a bad image."""
    if not np.isfinite(gray).all():
        raise BadImage("float image with NaN or infinite pixels")
    factor = 1 / 257 if not floating else 255 if gray.max() <= 1 else 1
    scaled: np.ndarray = np.clip(np.rint(gray * factor), 0, 255).astype(np.uint8)
    return scaled


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)
