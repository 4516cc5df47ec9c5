"""What the numbers of a file mean - white, transparency, no data, the channel axis: one rule for all readers.

8 bits stay uint8. Deeper integers become float32 by their white (1.0, as uint8's 255): the largest value of their type
or of their bits, unless the user says which value it is. Floats stay what they are, unless the user says so too. What
is transparent is laid on white. A pixel without data (GDAL's nodata) takes the mean of those with data, so that it says
nothing of the picture. Nothing is allocated on the word of a header.
"""

import io
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float32, Shaped, UInt8
from PIL import Image

from dinokit.core.messages import BadImage

NPY = b"\x93NUMPY"
LARGEST = 1e18  # of a float pixel: the squares of larger ones would leave float32
ORIENTATION = 274  # tag of EXIF, also of TIFF
_BYTES = 6  # per pixel of Pillow's limit: 0.5 GB, what the largest RGB image that Pillow opens takes
_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601, as in Pillow

Numbers = Shaped[np.ndarray, "height width channel"]  # as stored
Missing = Bool[np.ndarray, "height width band"]  # where there is no data; one band: in all channels
Pixels = UInt8[np.ndarray, "height width channel"] | Float32[np.ndarray, "height width channel"]


@dataclass(frozen=True, kw_only=True)
class Stored:
    """The numbers of the first image of a file, upright, and what the file says of them."""

    values: Numbers  # what depths are read from
    white: float | int | None = None  # the integer that stands for 1.0; null: the largest of the type
    negative: bool = False  # 0 is white and `white` black
    colours: int = 0  # leading channels that make one colour, gray or RGB; 0: every channel is a band of its own
    alpha: Literal["", "straight", "premultiplied"] = ""  # of the last channel
    clear: Bool[np.ndarray, "height width"] | None = None  # transparent pixels
    missing: Missing | None = None

    @property
    def numbers(self) -> Numbers:
        """What masks are read from: the numbers with 0 black, 255 for the white of one bit."""
        values = self.values.astype(np.uint8) * np.uint8(255) if self.values.dtype == bool else self.values
        if self.negative and values.dtype.kind == "u":
            values = values.dtype.type(self.white or np.iinfo(values.dtype).max) - values
        return values

    def picture(self, channels: int | None, *, white: float | int | None = None, holes: bool = False) -> Pixels:
        """Make an image of the numbers.

        Args:
            channels: wanted; None keeps what there is, but for transparency.
            white: the value of deeper files that stands for 1.0, where the user says so.
            holes: leave NaN where there is no data; the image is then float32.
        """
        values, missing = self.values, self.missing
        if missing is not None:
            values = _filled(values, missing)
        pixels = scaled(values, white=white or self.white)
        if self.negative:
            pixels = (255 if pixels.dtype == np.uint8 else np.float32(1)) - pixels
        if self.clear is not None:
            pixels[self.clear] = 255 if pixels.dtype == np.uint8 else 1
        if channels in (None, 1, 3) and self.colours:
            colour = pixels[:, :, : self.colours]
            if self.alpha:
                # as colours are stored; but in the whole type where it goes beyond, or up to 1 beside floats
                own = self.white or (1 if values.dtype.kind == "f" else np.iinfo(values.dtype).max)
                said, top = own if values.dtype == np.uint8 else white or own, values[:, :, -1].max()
                opaque = next((one for one in sorted((own, said)) if top < 1.5 * one), top)
                alpha = (values[:, :, -1:] / np.float32(opaque)).astype(np.float32).clip(0, 1)
                full = np.float32(
                    255 if pixels.dtype == np.uint8 else opaque if values.dtype.kind == "f" and not white else 1
                )
                mixed = (colour if self.alpha == "premultiplied" else colour * alpha) + full * (1 - alpha)
                colour = np.rint(mixed).clip(0, 255).astype(np.uint8) if pixels.dtype == np.uint8 else mixed
            pixels = colour
        pixels = with_channels(pixels, channels)
        if holes and missing is not None:
            bands = missing if missing.shape[2] in (1, pixels.shape[2]) else missing.any(axis=2, keepdims=True)
            unit = pixels / np.float32(255) if pixels.dtype == np.uint8 else pixels
            pixels = np.where(bands, np.float32(np.nan), unit)
        return np.ascontiguousarray(pixels)


def read_npy(data: bytes, *, channels: int | None) -> Stored:
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
    if dtype.kind not in "biuf":
        raise BadImage(f"an array of {dtype}, expected integers or floats")
    wanted, present = math.prod(shape) * dtype.itemsize, len(data) - file.tell()
    if min(shape, default=0) < 1 or wanted != present:  # before numpy believes the header
        raise BadImage(f"an array of shape {shape}, {dtype}, has {wanted} bytes, the file holds {present}")
    array = np.load(io.BytesIO(data), allow_pickle=False)
    if array.ndim == 2:
        return Stored(values=array[:, :, None])
    if array.ndim != 3:
        raise BadImage(f"expected an array of 2 or 3 axes, got shape {array.shape}")
    first, _, last = array.shape
    leads = first == channels or first < last
    return Stored(values=np.moveaxis(array, 0, 2) if leads and last != channels else array)


def without_data(values: Numbers, nodata: object, *, colours: int) -> Missing | None:
    """Find the pixels that GDAL's nodata, a number as text, stands in; None without any.

    A colour is missing as a whole, where all its channels say so: black lips are no holes. Bands are missing each by
    itself.
    """
    try:
        number = float(str(nodata).strip("\0 "))
    except ValueError:
        return None
    with np.errstate(over="ignore"):
        exact = number if values.dtype.kind in "iub" else values.dtype.type(number)
    found: Any = np.asarray(np.isnan(values) if math.isnan(number) else values == exact)
    found = found[:, :, :colours].all(axis=2, keepdims=True) if colours else found
    return found if found.any() else None


def scaled(array: Numbers, *, white: float | int | None = None) -> Pixels:
    """Bring numbers of any type to the two kinds that images have here.

    Args:
        white: what stands for 1.0 in numbers of more than 8 bits; None: the largest of an integer's type, 1.0 itself.
    """
    check_size(*array.shape[:2], channels=array.shape[2], dtype=array.dtype)
    if array.dtype == bool:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind in "iu":
        if array.dtype.itemsize > 2 and white is None:
            raise BadImage(
                f"expected integers of 8 or 16 bits, or floats; got {array.dtype}: say which is white, --data.white"
            )
        return array.astype(np.float32) / np.float32(white or np.iinfo(array.dtype).max)
    if array.dtype.kind != "f":
        raise BadImage(f"expected integers or floats, got {array.dtype}")
    with np.errstate(over="ignore"):
        pixels = array.astype(np.float32)
    low, high = float(pixels.min()), float(pixels.max())
    if not math.isfinite(low) or not math.isfinite(high):  # a NaN anywhere makes both NaN
        raise BadImage("float image with NaN or infinite pixels")
    if max(-low, high) > LARGEST:
        raise BadImage(f"float image with values up to {max(-low, high):.0e}; expected at most {LARGEST:.0e}")
    return pixels if white is None else pixels / np.float32(white)


def turned(array: Numbers, orientation: object) -> Shaped[np.ndarray, "rows columns channel"]:
    """Turn and mirror an image as EXIF's orientation asks, 2 to 8; anything else leaves it alone."""
    if not isinstance(orientation, int) or not 2 <= orientation <= 8:
        return array
    if orientation >= 5:  # the picture lies: rows were columns
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return np.ascontiguousarray(array)


def with_channels(pixels: Shaped[np.ndarray, "height width held"], channels: int | None) -> Pixels:
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


def _filled(values: Numbers, missing: Missing) -> Numbers:
    """Put the mean of a channel where it has no data."""
    check_size(*values.shape[:2], channels=values.shape[2], dtype=values.dtype)
    filled = values.copy()
    holes = np.broadcast_to(missing, values.shape)
    for channel in range(values.shape[2]):
        known = values[:, :, channel][~holes[:, :, channel]]
        if not len(known):
            raise BadImage("no pixel has data; all are what the file says stands for none")
        mean = known.mean(dtype=np.float64)
        filled[:, :, channel][holes[:, :, channel]] = round(mean) if values.dtype.kind in "iu" else mean
    return filled
