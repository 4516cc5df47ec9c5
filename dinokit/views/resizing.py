"""Windows of an image of 8-bit colours, resized to the very numbers of torch, compiled by numba (extra `fast`).

Torch resizes uint8 as Pillow does: along rows, rounded to 8 bits, then along columns, with integers of 16 bits as
weights, whose sum is a power of two. Sums of integers do not depend on their order, so this is equal to the bit:

- An image is laid out once for all of its crops: columns become lines, so that a window's rows lie side by side, and
  every two by two pixels lie together.
- A line of the result is a sum of weighted lines. Two neighbours at a time, for processors multiply pairs of 16 bits
  and add them in one instruction (vpdpwssd, pmaddwd; elsewhere LLVM writes it out). Pixels outside of a window that
  share a pair with one inside have weight 0.
- What the first pass gives, two rows in a number of 64 bits, is turned again for the second, whose lines are rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int16, Int64, UInt8, UInt32, UInt64

from dinokit.views import quick
from dinokit.views.instructions import LANES, weigh

_compiled = quick.kept()
_BLOCK = 16  # lines of the first pass that are turned together
_COLOURS = 3


@dataclass(frozen=True)
class Target:
    """Where crops of one size go."""

    windows: Int64[np.ndarray, "view 4"]  # top, left, height, width, within the image
    mirrored: Bool[np.ndarray, "view"]
    out: UInt8[np.ndarray, "view sample 3 size size"]


def cut(image: UInt8[np.ndarray, "height width 3"], targets: Sequence[Target], *, sample: int, cubic: bool) -> None:
    """Resize windows of an image (bicubic or bilinear, antialiased) into one sample of each target."""
    across, down = -(-image.shape[1] // 2), -(-image.shape[0] // 2)
    turned = np.empty((across + 1, down, 4), np.uint32)  # lines are read beyond their end, by less than this
    _turn(np.ascontiguousarray(image), turned)
    for target in targets:
        _resize(turned, target.windows, target.mirrored, cubic, target.out, sample)


@_compiled
def _turn(image: UInt8[np.ndarray, "height width 3"], turned: UInt32[np.ndarray, "across down 4"]) -> None:
    """Lay two by two pixels together, colour by colour; without a second row or column the last one counts twice."""
    height, width = image.shape[:2]
    across, down = (width + 1) // 2, (height + 1) // 2
    for start in range(0, across, _BLOCK):
        stop = min(start + _BLOCK, across)
        for row in range(down):
            upper, lower = image[2 * row], image[min(2 * row + 1, height - 1)]
            for pair in range(start, stop):
                left, right = 2 * pair, min(2 * pair + 1, width - 1)
                for colour in range(_COLOURS):
                    turned[pair, row, colour] = (
                        np.uint32(upper[left, colour])
                        | np.uint32(upper[right, colour]) << np.uint32(8)
                        | np.uint32(lower[left, colour]) << np.uint32(16)
                        | np.uint32(lower[right, colour]) << np.uint32(24)
                    )


@_compiled
def _resize(
    turned: UInt32[np.ndarray, "across down 4"],
    windows: Int64[np.ndarray, "view 4"],
    mirrored: Bool[np.ndarray, "view"],
    cubic: bool,
    out: UInt8[np.ndarray, "view sample 3 size size"],
    sample: int,
) -> None:
    size = out.shape[4]
    tallest = windows[:, 2].max() // 2 + 2
    between = np.empty(tallest * size + 4, np.uint64)  # a number: colours of two rows, pair by pair; 4 to read beyond
    wide = max(tallest + 2, (size + 2) // 2 + 2)
    lines = np.empty((_BLOCK, wide), np.uint64)
    for view in range(len(windows)):
        top, left, height, width = windows[view]
        rows = (height + (top & 1) + 1) // 2
        _across(turned, top, left, width, rows, mirrored[view], cubic, size, lines, between)
        _down(between, top & 1, height, cubic, size, lines, out[view, sample])


@_compiled
def _across(
    turned: UInt32[np.ndarray, "across down 4"],
    top: int,
    left: int,
    width: int,
    rows: int,
    mirrored: bool,
    cubic: bool,
    size: int,
    lines: UInt64[np.ndarray, "block pair"],
    between: UInt64[np.ndarray, "number"],
) -> None:
    """Resize along rows; every line is a column of the result, two rows after two rows."""
    index, taps, precision = _weights(width, size, left & 1, cubic)
    step, blocks = turned.strides[0], (8 * rows + LANES - 1) // LANES
    corner = turned.ctypes.data + (left >> 1) * step + (top >> 1) * turned.strides[1]
    for start in range(0, size, _BLOCK):
        count = min(_BLOCK, size - start)
        for line in range(count):
            column = size - 1 - start - line if mirrored else start + line
            weigh(
                corner + index[column] * step,
                step,
                taps.ctypes.data + column * taps.strides[0],
                taps.shape[1] // 2,
                precision,
                blocks,
                lines.ctypes.data + line * lines.strides[0],
            )
        for row in range(rows):
            some = between[row * size + start : row * size + start + count]
            for line in range(count):
                some[line] = lines[line, row]


@_compiled
def _down(
    between: UInt64[np.ndarray, "number"],
    odd: int,
    height: int,
    cubic: bool,
    size: int,
    lines: UInt64[np.ndarray, "block pair"],
    out: UInt8[np.ndarray, "3 size size"],
) -> None:
    """Resize along columns, and put colours apart."""
    index, taps, precision = _weights(height, size, odd, cubic)
    pixels = lines[0].view(np.uint32)
    for row in range(size):
        weigh(
            between.ctypes.data + index[row] * 8 * size,
            8 * size,
            taps.ctypes.data + row * taps.strides[0],
            taps.shape[1] // 2,
            precision,
            (4 * size + LANES - 1) // LANES,
            lines.ctypes.data,
        )
        for colour in range(_COLOURS):
            plane, shift = out[colour, row], np.uint32(8 * colour)
            for column in range(size):
                plane[column] = np.uint8(pixels[column] >> shift)


@_compiled
def _weights(
    length: int, size: int, odd: int, cubic: bool
) -> tuple[Int64[np.ndarray, "size"], Int16[np.ndarray, "size tap"], int]:
    """Return, as torch has them, the first pair, the weights and their precision for every number that is made.

    Args:
        odd: 1 if the line begins with the second of a pair.
    """
    scale = length / size
    support = (2.0 if cubic else 1.0) * max(scale, 1.0)
    shrink = 1.0 / scale if scale >= 1.0 else 1.0
    most = int(np.ceil(support)) * 2 + 1
    exact, index, largest, pairs = np.empty((size, most)), np.empty(size, np.int64), 0.0, 0
    for place in range(size):
        centre = scale * (place + 0.5)
        first = max(int(centre - support + 0.5), 0)
        count = min(max(min(int(centre + support + 0.5), length) - first, 0), most)
        total = 0.0
        for tap in range(most):
            weight, far = 0.0, abs((tap + first - centre + 0.5) * shrink)
            if tap >= count:
                pass
            elif not cubic:
                weight = max(1.0 - far, 0.0)
            elif far < 1.0:
                weight = (1.5 * far - 2.5) * far * far + 1.0
            elif far < 2.0:
                weight = (((far - 5.0) * far + 8.0) * far - 4.0) * -0.5
            exact[place, tap] = weight
            total += weight
        for tap in range(count if total != 0.0 else 0):
            exact[place, tap] /= total
            largest = max(largest, exact[place, tap])
        index[place] = first + odd
        pairs = max(pairs, (((first + odd) & 1) + count + 1) // 2)
    precision = 0
    while precision < 22 and int(0.5 + largest * (1 << (precision + 1))) < 1 << 15:
        precision += 1
    taps, held = np.empty((size, 2 * pairs), np.int16), (length + odd + 1) // 2
    for place in range(size):
        start = index[place]
        index[place] = min(start >> 1, held - pairs)  # none reads beyond the line
        before = start - 2 * index[place]
        for tap in range(2 * pairs):
            weight = exact[place, tap - before] * (1 << precision) if 0 <= tap - before < most else 0.0
            taps[place, tap] = int(weight - 0.5) if weight < 0.0 else int(weight + 0.5)
    return index, taps, precision
