"""What all pictures of predictions share: a legend, overlays, the image as a screen shows it."""

from collections.abc import Sequence

import numpy
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

from dinokit.images import intensity

Colour = Sequence[int]
_HEAT = numpy.array([(30, 12, 60), (110, 25, 110), (200, 60, 70), (250, 150, 60), (253, 231, 140)], dtype=float)
_ROW, _WIDTH = 18, 260  # pixels of a line of a legend


def legend(names: Sequence[str], colours: Sequence[Colour]) -> Image.Image:
    """Draw one line per name, its colour in front, in columns of 40."""
    rows = min(len(names), 40)
    columns = -(-len(names) // rows)
    page = Image.new("RGB", (columns * _WIDTH, rows * _ROW + 4), "white")
    pen = ImageDraw.Draw(page)
    for number, (name, colour) in enumerate(zip(names, colours, strict=True)):
        left, top = number // rows * _WIDTH + 4, number % rows * _ROW + 4
        pen.rectangle((left, top, left + 24, top + _ROW - 5), fill=tuple(colour), outline="gray")
        text = f"class {name}" if name == str(number) else f"{number}  {name}"
        # the built-in font knows Latin letters only
        pen.text((left + 32, top), text.encode("latin-1", "replace").decode("latin-1"), fill="black")
    return page


def rgb(image: intensity.Image) -> UInt8[numpy.ndarray, "height width 3"]:
    """Return what a screen shows of an image: of one or two channels the first, else the first three."""
    shown = intensity.for_display(image[None])[0].permute(1, 2, 0).numpy()  # [height, width, channel]
    return shown[..., :3] if shown.shape[2] >= 3 else numpy.repeat(shown[..., :1], 3, axis=2)


def heat(share: Float[numpy.ndarray, "rows columns"]) -> UInt8[numpy.ndarray, "rows columns 3"]:
    """Return colours of shares: 0 is dark blue, over red, 1 is bright yellow; evenly spaced."""
    places = numpy.linspace(0, 1, len(_HEAT))
    channels = [numpy.interp(share, places, _HEAT[:, channel]) for channel in range(3)]
    return numpy.stack(channels, axis=-1).round().astype(numpy.uint8)


def mixed(
    below: UInt8[numpy.ndarray, "height width 3"],
    above: UInt8[numpy.ndarray, "height width 3"],
    share: Float[numpy.ndarray, "height width"],
) -> UInt8[numpy.ndarray, "height width 3"]:
    """Lay colours over a picture, each pixel by its share."""
    sums = below + (above.astype(numpy.float32) - below) * share[..., None].astype(numpy.float32)
    rounded: UInt8[numpy.ndarray, "height width 3"] = sums.round().astype(numpy.uint8)
    return rounded
