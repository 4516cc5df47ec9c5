"""TIFFs that Pillow would misread: pages that are channels, bands in planes, deep colours, signed or negative values.

Read with tifffile, the extra `tiff`. Of several pages the file says what they are (OME, ImageJ, tifffile's own): those
along C are the channels, of all other axes (time, focus, levels, pages of a document) the first counts. Pages of an
axis without a name are channels if there are as many as wanted and each holds one number per pixel.
"""

import io
import math
from functools import cache
from logging import NullHandler, getLogger
from typing import Any

import numpy as np

from dinokit.core.messages import BadImage
from dinokit.images import arrays
from dinokit.images.arrays import Stored

SIGNATURES = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
NODATA = 42113  # tag of GDAL: the number that stands for no data, as text
DEEP_GRAY = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")  # modes of Pillow
PHOTOMETRIC = 262
_PLANES, _SAMPLES, _BITS, _FORMAT, _EXTRA, _COMPRESSION = 284, 277, 258, 339, 338, 259
_KINDS = {0: 1, 1: 1, 2: 3}  # photometric interpretation: white is 0, black is 0, RGB -> channels of the colour
_ALPHA = {1: "premultiplied", 2: "straight"}  # extra samples


def read_tiff(data: bytes, *, channels: int | None, seen: Any = None) -> Stored | None:
    """Read the first image of a TIFF.

    Args:
        seen: by Pillow, if it could open the file; None comes back if it reads it right.
    """
    pillow_is_right = seen is not None and _is_plain(seen, channels)
    if pillow_is_right and not getattr(seen, "is_animated", False):
        return None
    with _tifffile().TiffFile(io.BytesIO(data)) as file:
        series = file.series[0]
        planes, stride = _channel_pages(series, wanted=channels or 3)
        if pillow_is_right and planes == 1:
            return None
        page = file.pages[0] if planes == 1 else series.keyframe
        if page.axes not in ("YX", "YXS", "SYX") or page.dtype is None:
            raise BadImage(f"expected a TIFF of rows, columns and channels, got the axes {page.axes}")
        size, samples = (page.imagelength, page.imagewidth), page.samplesperpixel
        arrays.check_size(*size, channels=samples * planes, dtype=page.dtype)
        parts = [page.asarray()] if planes == 1 else _pages(series, page, planes, stride=stride)
        kind, turn, nodata = (page.tags.valueof(tag) for tag in (PHOTOMETRIC, arrays.ORIENTATION, NODATA))
    for part in parts:
        if part.shape != page.shape or not part.size:
            raise BadImage(f"expected a TIFF of shape {page.shape}, its pixels have {part.shape}")
    if page.axes == "YX":
        parts = [part[:, :, None] for part in parts]
    elif page.axes == "SYX":
        parts = [np.moveaxis(part, 0, 2) for part in parts]
    values = arrays.turned(np.concatenate(parts, axis=2), turn)
    if kind not in (None, *_KINDS) and channels in (None, 1, 3):
        raise BadImage(f"colours of kind {getattr(page.photometric, 'name', kind)}; convert the TIFF to RGB or gray")
    extra = page.extrasamples
    alpha: Any = _ALPHA.get(int(extra[-1]), "") if extra else ""
    colours = _KINDS.get(1 if kind is None else kind, 0)
    if planes > 1 or samples != colours + len(extra) or (colours == 1 and extra and not (alpha and samples == 2)):
        colours, alpha = 0, ""  # bands
    bits = int(np.max(page.bitspersample))
    return Stored(
        values=values,
        white=float(2**bits - 1) if values.dtype.kind == "u" and 1 < bits < 8 * values.dtype.itemsize else None,
        negative=kind == 0,
        colours=colours,
        alpha=alpha,
        missing=arrays.without_data(values, nodata, colours=colours),
    )


def size_of(data: bytes) -> tuple[int, int]:
    """Return the width and height of the first image of a TIFF, by its tags."""
    with _tifffile().TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
        return int(page.imagewidth), int(page.imagelength)


def _pages(series: Any, page: Any, count: int, *, stride: int) -> list[Any]:
    """Read the pages that are channels."""
    if len(series.pages) == math.prod(series.shape) // math.prod(page.shape):
        return [series.pages[number * stride].asarray() for number in range(count)]
    # one page stands for all, which follow it in the file
    size = page.imagelength, page.imagewidth
    arrays.check_size(*size, channels=math.prod(series.shape) // math.prod(size), dtype=page.dtype)
    return list(series.asarray().reshape(-1, *page.shape)[: count * stride : stride])


def _is_plain(image: Any, channels: int | None) -> bool:
    """Tell whether Pillow reads one page right: its bands, their bits, their order."""
    tags = image.tag_v2
    bits = max(tags.get(_BITS, (1,)))
    if channels not in (None, 1, 3) and len(image.getbands()) != channels:
        return False
    if bits <= 8:
        premultiplied_planes = tags.get(_PLANES, 1) != 1 and 1 in tags.get(_EXTRA, ())
        return not premultiplied_planes and (bits < 8 or 2 not in tags.get(_FORMAT, ()))  # signed bytes
    if tags.get(_SAMPLES, 1) == 1:
        # compressed and of the other byte order, Pillow 12 swaps what libtiff has swapped already
        swapped = tags.prefix == b"MM" and tags.get(_COMPRESSION, 1) != 1 and image.mode in ("I", "F")
        return image.mode in DEEP_GRAY and not swapped
    raw = image.tile[0].args[0] if image.tile and isinstance(image.tile[0].args, tuple) else ""
    return tags.get(_PLANES, 1) == 1 and raw[:-1] in ("RGB;16", "RGBA;16")


def _channel_pages(series: Any, *, wanted: int) -> tuple[int, int]:
    """Return how many pages are the channels of the first image, and how many pages lie from one to the next."""
    outer = [(axis, length) for axis, length in zip(series.axes, series.shape, strict=True) if axis not in "YXS"]
    for place, (axis, length) in enumerate(outer):
        if axis == "C" or (axis == "Q" and length == wanted > 1 and series.keyframe.samplesperpixel == 1):
            return length, math.prod(each for _, each in outer[place + 1 :])
    return 1, 1


@cache
def _tifffile() -> Any:
    try:
        import tifffile
    except ImportError as error:
        raise BadImage("this kind of TIFF needs tifffile: pip install 'dinokit[tiff]'") from error
    getLogger("tifffile").addHandler(NullHandler())  # what is wrong with a file is said by the exception
    return tifffile
