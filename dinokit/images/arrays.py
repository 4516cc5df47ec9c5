"""Pixels that are plain arrays: `.npy` files, and TIFFs with more channels or deeper colours than Pillow reads.

Their depth is kept: 8 bits stay uint8, 16-bit integers become float32 by the largest value of their type (1.0 = white,
as uint8's 255), floats stay what they are. Nothing is allocated on the word of a header.
"""

import io
import math
from functools import cache
from logging import NullHandler, getLogger
from typing import Any

import numpy as np
from jaxtyping import Float32, Shaped, UInt8
from PIL import Image

from dinokit.images.bad_image import BadImage

NPY = b"\x93NUMPY"
TIFF = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")

LARGEST = 1e18  # of a float pixel: the squares of larger ones would leave float32
_BYTES = 6  # per pixel of Pillow's limit: 0.5 GB, what the largest RGB image that Pillow opens takes
_AXES = ("YX", "YXS", "SYX", "CYX")
_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601, as in Pillow

Pixels = UInt8[np.ndarray, "height width channel"] | Float32[np.ndarray, "height width channel"]


def read_npy(data: bytes, *, channels: int | None) -> Pixels:
    """Read [height, width], [height, width, channel] or [channel, height, width].

    Of three axes the last is the channel if it has the wanted number, else the first if that has; failing both, the
    shorter one.
    """
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise BadImage("an array of records, expected numbers")
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(file)
    if dtype.hasobject:
        raise BadImage("an array of Python objects, expected numbers")
    wanted, present = math.prod(shape) * dtype.itemsize, len(data) - file.tell()
    if min(shape, default=0) < 1 or wanted != present:  # before numpy believes the header
        raise BadImage(f"an array of shape {shape}, {dtype}, has {wanted} bytes, the file holds {present}")
    array = np.load(io.BytesIO(data), allow_pickle=False)
    if array.ndim == 2:
        return scaled(array[:, :, None])
    if array.ndim != 3:
        raise BadImage(f"expected an array of 2 or 3 axes, got shape {array.shape}")
    first, _, last = array.shape
    leads = first == channels or first < last
    return scaled(np.moveaxis(array, 0, 2) if leads and last != channels else array)


def read_tiff(data: bytes) -> Pixels:
    """Read the first image of a TIFF with tifffile; its pages are the channels if the file says so."""
    with _tifffile().TiffFile(io.BytesIO(data)) as file:
        series, page = file.series[0], file.pages[0]
        image = series if series.axes in _AXES else page
        if image.axes not in _AXES or image.dtype is None:
            raise BadImage(f"expected a TIFF of rows, columns and channels, got the axes {image.axes}")
        shape = [image.shape[image.axes.index(axis)] for axis in "YX"]
        check_size(*shape, channels=math.prod(image.shape) // max(math.prod(shape), 1), dtype=image.dtype)
        array = image.asarray()
        if array.shape != image.shape or 0 in array.shape:
            raise BadImage(f"expected a TIFF of shape {image.shape}, its pixels have {array.shape}")
    if image.axes == "YX":
        array = array[:, :, None]
    return scaled(np.moveaxis(array, 0, 2) if image.axes in ("SYX", "CYX") else array)


def scaled(array: Shaped[np.ndarray, "height width channel"], *, white: float | None = None) -> Pixels:
    """Bring numbers of any type to the two kinds that images have here, as an array of its own.

    Args:
        white: the integer that stands for 1.0; None: the largest of the type.
    """
    check_size(*array.shape[:2], channels=array.shape[2], dtype=array.dtype)
    if array.dtype == bool:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint8:
        return np.array(array)
    if array.dtype.kind in "iu" and array.dtype.itemsize <= 2:
        return array.astype(np.float32) / np.float32(white or np.iinfo(array.dtype).max)
    if array.dtype.kind != "f":
        raise BadImage(f"expected integers of 8 or 16 bits, or floats; got {array.dtype}")
    pixels = array.astype(np.float32)
    low, high = float(pixels.min()), float(pixels.max())
    if not math.isfinite(low) or not math.isfinite(high):  # a NaN anywhere makes both NaN
        raise BadImage("float image with NaN or infinite pixels")
    if max(-low, high) > LARGEST:
        raise BadImage(f"float image with values up to {max(-low, high):.0e}; expected at most {LARGEST:.0e}")
    return pixels


def with_channels(
    pixels: Shaped[np.ndarray, "height width held"], channels: int | None
) -> UInt8[np.ndarray, "height width channel"] | Float32[np.ndarray, "height width channel"]:
    """Give gray images three channels and RGB images one, if that is what is wanted; None keeps what there is."""
    held = pixels.shape[2]
    if channels in (None, held):
        return pixels
    if (held, channels) == (1, 3):
        return np.repeat(pixels, 3, axis=2)
    if (held, channels) == (3, 1):
        gray = (pixels @ _LUMINANCE)[:, :, None]  # [height, width, 1]
        return gray if pixels.dtype == np.float32 else np.rint(gray).astype(np.uint8)
    raise BadImage(f"{channels} channel{'s' if channels != 1 else ''} wanted, the file holds {held}")


def check_size(height: int, width: int, *, channels: int, dtype: np.dtype) -> None:
    """Refuse what would not fit in memory, by Pillow's limit against decompression bombs."""
    limit = Image.MAX_IMAGE_PIXELS
    wanted = height * width * channels * (1 if dtype.itemsize == 1 else 4)
    if limit is not None and wanted > limit * _BYTES:
        raise BadImage(
            f"{width} x {height} pixels of {channels} channels would take {wanted / 1e9:.1f} GB, "
            f"more than {limit * _BYTES / 1e9:.1f}; cut it into tiles"
        )


@cache
def _tifffile() -> Any:
    try:
        import tifffile
    except ImportError as error:
        raise BadImage("this kind of TIFF needs tifffile: pip install 'dinokit[tiff]'") from error
    getLogger("tifffile").addHandler(NullHandler())  # what is wrong with a file is said by the exception
    return tifffile
