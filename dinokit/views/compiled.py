"""The exact photometric chain in few passes over memory, compiled by numba: what the extra `fast` adds.

The operations are those of `augment`, rounded where torch rounds; sums, for the mean and the blur, are taken in another
order (1e-6 of white, an operation and the chains of the recipes: tests compare them, and who wants to know what an
operation is reads it there). Torch makes some 30 passes over a crop; here pixels are taken through the operations a
tile at a time, which stays next to the core, up to where the next operation needs all of them: contrast, for the mean,
and blur. An image does not depend on its neighbours.

Imported where numba is installed, and only there. All that is compiled stands in this one file, for numba keeps the
result until this file changes, whatever it calls.
"""

import numpy as np
from jaxtyping import Float32, Int64, Shaped, UInt8

from dinokit.images.intensity import Pixels
from dinokit.views import augment, quick
from dinokit.views.instructions import multiply_add

Plane = Float32[np.ndarray, "pixel"]
Planes = Float32[np.ndarray, "channel pixel"]

_compiled = quick.kept("nsz", "nnan")  # rounds where torch does: chains multiply what is lost
_fused = quick.kept("nsz", "nnan", "contract")  # a product and its sum are rounded once, as by torch there
_summed = quick.kept("nsz", "nnan", "contract", "reassoc")  # sums may be taken in any order
_STRIP = 16  # rows that are blurred together
_TILE = 1024  # pixels taken through the operations together: 12 KB of colours
_LOAD, _BRIGHTNESS, _CONTRAST, _SATURATION, _HUE, _GRAYSCALE, _NOTHING = -1, 0, 1, 2, 3, 4, 5
_NO_WEIGHT = np.float32(1e-12)  # of a pixel; products with the smallest numbers there are would take 30 times as long
# numbers of any other type would make float64 of all that they meet
_ZERO, _ONE, _TWO, _FOUR, _SIX = map(np.float32, (0, 1, 2, 4, 6))
_SIXTH, _THIRD, _HALF, _TWO_THIRDS = map(np.float32, (1 / 6, 1 / 3, 1 / 2, 2 / 3))
_RED, _GREEN, _BLUE = map(np.float32, augment.LUMINANCE)


def distorted(
    crops: Shaped[np.ndarray, "sample channel height width"],
    parameters: augment.Parameters,
    config: augment.Config,
    pixels: Pixels,
    ranges: Float32[np.ndarray, "sample 2"] | None,
    *,
    out: Float32[np.ndarray, "sample channel height width"],
) -> None:
    """Distort crops step by step and normalise them; uint8, or float32 in [0, 1]."""
    samples, channels, height, width = crops.shape
    rgb = channels == 3
    used = np.array([config.brightness > 0, config.contrast > 0, config.saturation > 0 and rgb, config.hue > 0 and rgb])
    steps = np.full((samples, 6), _NOTHING)
    steps[:, 0] = _LOAD
    steps[:, 1:5] = np.where(parameters.jitter[:, None] & used[parameters.order], parameters.order, _NOTHING)
    steps[:, 5] = np.where(parameters.grayscale & rgb, _GRAYSCALE, _NOTHING)
    mean, std = (np.resize(np.array(each, np.float32), channels) for each in (pixels.mean, pixels.std))
    if ranges is None:
        ranges = np.tile(np.array([0, 1], np.float32), (samples, 1))
    weights = np.where(parameters.blur[:, None], _gaussians(parameters.sigma, config.blur_taps), _ZERO)
    reach = weights.shape[1] - 1
    wide = width + 2 * reach
    crops, deep = np.ascontiguousarray(crops), crops.dtype == np.float32
    _all(
        np.empty((0, *crops.shape[1:]), np.uint8) if deep else crops,
        crops if deep else np.empty((0, *crops.shape[1:]), np.float32),
        steps,
        parameters.strength,
        weights,
        np.where(parameters.solarise, np.float32(config.solarise_threshold), np.float32(np.inf)),
        ranges,
        mean,
        std,
        np.empty((channels, height * width), np.float32),
        np.zeros((_STRIP + 2 * reach, wide), np.float32),
        np.zeros((_STRIP + 2 * reach, wide), np.float32),
        out,
    )


def _gaussians(sigma: Float32[np.ndarray, "sample"], taps: int) -> Float32[np.ndarray, "sample half"]:
    """Return the weights of a Gaussian from its middle on, and zeros until they are 5, 9, 13, ..."""
    radius = taps // 2
    offsets = np.arange(radius + 1, dtype=np.float32)
    weights = np.exp(np.float32(-0.5) * (offsets / sigma[:, None]) ** 2)
    weights[weights < _NO_WEIGHT] = 0
    weights /= 2 * weights.sum(axis=1, keepdims=True) - weights[:, :1]
    return np.pad(weights, ((0, 0), (0, -radius % 4 if radius else 4)))


@_compiled
def _all(
    eight: UInt8[np.ndarray, "some channel height width"],  # crops, or none and all are deep: one type compiles sooner
    deep: Float32[np.ndarray, "others channel height width"],
    steps: Int64[np.ndarray, "sample 6"],
    strength: Float32[np.ndarray, "sample 4"],
    weights: Float32[np.ndarray, "sample half"],  # of the blur, all 0 for none
    threshold: Float32[np.ndarray, "sample"],  # of solarisation, infinite for none
    ranges: Float32[np.ndarray, "sample 2"],
    mean: Float32[np.ndarray, "channel"],
    std: Float32[np.ndarray, "channel"],
    planes: Planes,  # these three to work in
    padded: Float32[np.ndarray, "rows wider"],
    across: Float32[np.ndarray, "rows wider"],
    out: Float32[np.ndarray, "sample channel height width"],
) -> None:
    samples, channels = out.shape[:2]
    for sample in range(samples):
        one = slice(sample, sample + 1)
        _coloured(eight[one].reshape(-1), deep[one].reshape(-1), steps[sample], strength[sample], planes)
        low, high = ranges[sample]
        for channel in range(channels):
            limit, scale = threshold[sample], (high - low) / std[channel]
            offset, shown = (low - mean[channel]) / std[channel], out[sample, channel]
            if weights[sample, 0] > 0:
                _blur(planes[channel], weights[sample], padded, across, limit, scale, offset, shown)
            else:
                _finish(planes[channel], limit, scale, offset, shown.reshape(-1))


@_compiled
def _coloured(
    eight: UInt8[np.ndarray, "value"],
    deep: Float32[np.ndarray, "other_value"],
    steps: Int64[np.ndarray, "6"],
    strength: Float32[np.ndarray, "4"],
    planes: Planes,
) -> None:
    """Take a crop through jitter and grayscale, from one contrast to the next."""
    channels, pixels = planes.shape
    first, mean = 0, _ZERO
    while first < steps.size:
        last = first + 1
        while last < steps.size and steps[last] != _CONTRAST:
            last += 1
        total = 0.0
        for start in range(0, pixels, _TILE):
            stop = min(start + _TILE, pixels)
            for step in steps[first:last]:
                if step == _LOAD:
                    if eight.size:
                        _load(eight, planes, start, stop)
                    else:
                        _load(deep, planes, start, stop)
                elif step in (_BRIGHTNESS, _CONTRAST):
                    factor = strength[step]
                    offset = (_ONE - factor) * mean if step == _CONTRAST else _ZERO
                    for channel in range(channels):
                        _scale(planes[channel][start:stop], factor, offset)
                elif step != _NOTHING:
                    red, green, blue = planes[0][start:stop], planes[1][start:stop], planes[2][start:stop]
                    if step == _SATURATION:
                        _saturate(red, green, blue, strength[step])
                    elif step == _HUE:
                        _turn(red, green, blue, strength[step])
                    else:
                        _gray(red, green, blue)
            if last < steps.size:
                total += float(_light(planes, start, stop))
        mean = np.float32(total / pixels)
        first = last


@_compiled
def _load(values: Shaped[np.ndarray, "value"], planes: Planes, start: int, stop: int) -> None:
    channels, pixels = planes.shape
    white = np.float32(255 if values.itemsize == 1 else 1)
    for channel in range(channels):
        plane, given = planes[channel][start:stop], values[channel * pixels + start : channel * pixels + stop]
        for pixel in range(plane.size):
            plane[pixel] = np.float32(given[pixel]) / white


@_summed
def _light(planes: Planes, start: int, stop: int) -> np.float32:
    """Return the sum of the luminance, without three channels of the mean of all."""
    channels, total = planes.shape[0], _ZERO
    if channels == 3:
        red, green, blue = planes[0][start:stop], planes[1][start:stop], planes[2][start:stop]
        for pixel in range(red.size):
            total += _luminance(red[pixel], green[pixel], blue[pixel])
        return total
    for channel in range(channels):
        plane = planes[channel][start:stop]
        for pixel in range(plane.size):
            total += plane[pixel]
    return total / np.float32(channels)


@_compiled
def _luminance(red: np.float32, green: np.float32, blue: np.float32) -> np.float32:
    light: np.float32 = multiply_add(blue, _BLUE, multiply_add(green, _GREEN, red * _RED))  # as torch
    return light


@_compiled
def _scale(values: Plane, factor: np.float32, offset: np.float32) -> None:
    for pixel in range(values.size):
        values[pixel] = min(max(values[pixel] * factor + offset, _ZERO), _ONE)


@_compiled
def _saturate(red: Plane, green: Plane, blue: Plane, factor: np.float32) -> None:
    for pixel in range(red.size):
        gray = _luminance(red[pixel], green[pixel], blue[pixel]) * (_ONE - factor)
        red[pixel] = min(max(red[pixel] * factor + gray, _ZERO), _ONE)
        green[pixel] = min(max(green[pixel] * factor + gray, _ZERO), _ONE)
        blue[pixel] = min(max(blue[pixel] * factor + gray, _ZERO), _ONE)


@_fused
def _turn(red: Plane, green: Plane, blue: Plane, shift: np.float32) -> None:
    """Turn the hue as `augment.hue` does."""
    for pixel in range(red.size):
        r, g, b = red[pixel], green[pixel], blue[pixel]
        value, low = max(max(r, g), b), min(min(r, g), b)
        chroma = value - low
        from_green, from_blue = b - r + _TWO * chroma, r - g + _FOUR * chroma
        turn = g - b if r == value else from_green if g == value else from_blue
        width = _SIX * chroma
        turn = turn / max(width, np.float32(1e-12)) + shift
        turn -= np.floor(turn)
        high, lower = low + width * _THIRD, low - width * _SIXTH
        r = lower + width * min(max(abs(turn - _HALF), _SIXTH), _THIRD)
        g = high - width * min(max(abs(turn - _THIRD), _SIXTH), _THIRD)
        b = high - width * min(max(abs(turn - _TWO_THIRDS), _SIXTH), _THIRD)
        red[pixel] = min(max(r, _ZERO), _ONE)
        green[pixel] = min(max(g, _ZERO), _ONE)
        blue[pixel] = min(max(b, _ZERO), _ONE)


@_compiled
def _gray(red: Plane, green: Plane, blue: Plane) -> None:
    for pixel in range(red.size):
        gray = _luminance(red[pixel], green[pixel], blue[pixel])
        red[pixel] = gray
        green[pixel] = gray
        blue[pixel] = gray


@_compiled
def _blur(
    plane: Plane,
    weights: Float32[np.ndarray, "half"],
    padded: Float32[np.ndarray, "rows wider"],
    across: Float32[np.ndarray, "rows wider"],
    threshold: np.float32,
    scale: np.float32,
    offset: np.float32,
    out: Float32[np.ndarray, "height width"],
) -> None:
    """Convolve rows, then columns, reflecting the edges, and finish, a strip of rows that stays next to the core.

    With a margin all rows of a strip are one long line, and so are columns; what comes of the margin is not read.
    """
    height, width = out.shape
    reach, wide = weights.size - 1, padded.shape[1]
    inner = min(reach, height - 1, width - 1)  # whatever is farther has no weight
    for top in range(0, height, _STRIP):
        count = min(_STRIP, height - top)
        kept = 2 * reach if top else 0  # rows of the strip before
        for row in range(kept):
            before, after = across[_STRIP + row], across[row]
            for x in range(wide):
                after[x] = before[x]
        for row in range(kept, count + 2 * reach):
            y = top + row - reach
            y = min(max(-y if y < 0 else y if y < height else 2 * height - 2 - y, 0), height - 1)
            pixels, line = plane[y * width : (y + 1) * width], padded[row - kept][reach : reach + width]
            for x in range(width):
                line[x] = pixels[x]
        for k in range(1, inner + 1):  # down the rows: along them, a few pixels each, it takes as long as blurring them
            for row in range(count + 2 * reach - kept):
                padded[row, reach - k] = padded[row, reach + k]
                padded[row, reach + width - 1 + k] = padded[row, reach + width - 1 - k]
        made = (count + 2 * reach - kept) * wide - 2 * reach
        around, start = padded.reshape(-1)[: made + 2 * reach], kept * wide + reach
        _convolve(around, 1, weights, across.reshape(-1)[start : start + made])
        made = count * wide
        around = across.reshape(-1)[: made + 2 * reach * wide]
        _convolve(around, wide, weights, padded.reshape(-1)[:made])
        for row in range(count):
            _finish(padded[row][reach : reach + width], threshold, scale, offset, out[top + row])


@_summed
def _convolve(
    source: Float32[np.ndarray, "longer"], step: int, weights: Float32[np.ndarray, "half"], out: Plane
) -> None:
    """Weigh what lies 0, 1, ... steps to either side, nine of these at a time: they stay in registers."""
    middle = (weights.size - 1) * step
    same, weight = source[middle:], weights[0]
    for k in range(1, weights.size, 4):
        u, v, w, z = weights[k], weights[k + 1], weights[k + 2], weights[k + 3]
        near, far = middle - k * step, middle + k * step
        a, b, c, d = source[near:], source[near - step :], source[near - 2 * step :], source[near - 3 * step :]
        e, f, g, h = source[far:], source[far + step :], source[far + 2 * step :], source[far + 3 * step :]
        for x in range(out.size if k == 1 else 0):
            others = u * (a[x] + e[x]) + v * (b[x] + f[x]) + w * (c[x] + g[x]) + z * (d[x] + h[x])
            out[x] = weight * same[x] + others
        for x in range(out.size if k > 1 else 0):
            out[x] += u * (a[x] + e[x]) + v * (b[x] + f[x]) + w * (c[x] + g[x]) + z * (d[x] + h[x])


@_fused
def _finish(plane: Plane, threshold: np.float32, scale: np.float32, offset: np.float32, out: Plane) -> None:
    """Solarise, bring back to the range of the image, and normalise."""
    for pixel in range(plane.size):
        value = plane[pixel]
        value = _ONE - value if value >= threshold else value
        out[pixel] = value * scale + offset
