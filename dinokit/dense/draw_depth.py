"""Depth maps as pictures: 16-bit PNGs that hold numbers, and colours for the eye."""

from collections.abc import Mapping
from pathlib import Path

import numpy
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from dinokit.checkpoints.dense import About
from dinokit.dense.draw import save
from dinokit.dense.windows import resized
from dinokit.images import intensity as images

# near to far: bright yellow over red to dark blue, evenly spaced
_COLOURS = numpy.array([(253, 231, 140), (250, 150, 60), (200, 60, 70), (110, 25, 110), (30, 12, 60)], dtype=float)
_MOST = 65_535
_WIDTH, _HEIGHT = 320, 48  # pixels of the legend
_MARKS = 5


def units(high: float) -> float:
    """Return the steps of a metre in the PNG: the finest that fits of millimetres, 1/256 m as KITTI, and coarser."""
    return next((steps for steps in (1000.0, 256.0, 100.0, 10.0, 1.0) if high * steps <= _MOST), _MOST / high)


def depths(
    values: Float[Tensor, "1 1 rows columns"], image: images.Image, places: Mapping[str, Path], about: About
) -> None:
    """Write the depth of every pixel as a 16-bit PNG, and in colours, on a log scale."""
    low, high = about.details["low"], about.details["high"]
    metres = resized(values, (image.shape[1], image.shape[2]))[0, 0].clamp(low, high).cpu().numpy()
    steps = (metres * units(high)).round().clip(1, _MOST).astype(numpy.uint16)  # 0 would say: not known
    save(Image.fromarray(steps), places["depth"])
    save(Image.fromarray(coloured(metres, low=_nearest(low, high), high=high)), places["colours"])


def legend_of_depths(path: Path, about: About) -> None:
    """Write which colour is which distance, and what a step of the PNG is."""
    low, high = about.details["low"], about.details["high"]
    near = _nearest(low, high)
    scale = numpy.geomspace(near, high, _WIDTH)[None].repeat(16, axis=0)
    page = Image.new("RGB", (_WIDTH + 40, _HEIGHT), "white")
    page.paste(Image.fromarray(coloured(scale, low=near, high=high)), (20, 2))
    pen = ImageDraw.Draw(page)
    for mark in range(_MARKS):
        share = mark / (_MARKS - 1)
        pen.text((20 + share * _WIDTH, 20), f"{near * (high / near) ** share:.3g} m", fill="black", anchor="ma")
    pen.text((20 + _WIDTH / 2, 33), f"depth/: 1 m = {units(high):g}, 16 bits", fill="black", anchor="ma")
    save(page, path)


def coloured(
    metres: Float[numpy.ndarray, "rows columns"], *, low: float, high: float
) -> UInt8[numpy.ndarray, "rows columns 3"]:
    """Return colours of distances, by their logarithm."""
    share = (numpy.log(metres.clip(low, high)) - numpy.log(low)) / (numpy.log(high) - numpy.log(low))
    places = numpy.linspace(0, 1, len(_COLOURS))
    channels = [numpy.interp(share, places, _COLOURS[:, channel]) for channel in range(3)]
    return numpy.stack(channels, axis=-1).round().astype(numpy.uint8)


def _nearest(low: float, high: float) -> float:
    """Return where the colours begin: ranges often begin at a millimetre, where nothing ever is."""
    return max(low, high / 50)
