"""Which way is up: what a camera says of a picture, by whatever library the picture is read.

Photos carry EXIF's orientation (tag 274, also of TIFF), videos an angle. Everything that is read here is upright, so
that a picture and what was drawn on it (a mask, a depth, points) lie alike.
"""

import numpy as np
from jaxtyping import Shaped

TAG = 274


def turned(
    array: Shaped[np.ndarray, "height width channel"], orientation: object
) -> Shaped[np.ndarray, "rows columns channel"]:
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


def rotated(
    frame: Shaped[np.ndarray, "height width channel"], degrees: float | int
) -> Shaped[np.ndarray, "rows columns channel"]:
    """Turn a frame of a video counter-clockwise, by the nearest quarter: what PyAV's `frame.rotation` asks."""
    quarters = round(degrees / 90) % 4
    return np.ascontiguousarray(np.rot90(frame, quarters)) if quarters else frame
