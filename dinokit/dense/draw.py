"""What predictions look like: masks with a palette, probabilities, overlays, legends; all PNG."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from dinokit.checkpoints.dense import About
from dinokit.core.files import write_atomic
from dinokit.dense.windows import best_class, resized
from dinokit.images import intensity

Colour = Sequence[int]
FOREGROUND = (255, 64, 64)
_ROW, _WIDTH = 18, 260  # pixels of a line of a legend


def classes(
    values: Float[Tensor, "1 class rows columns"], image: intensity.Image, places: Mapping[str, Path], about: About
) -> None:
    """Write the class of every pixel, as indices of a palette, and its colour laid half over the image."""
    found = best_class(values, (image.shape[1], image.shape[2])).cpu().numpy().astype(numpy.uint8)
    colours = numpy.array(about.details["colours"], dtype=numpy.uint8)
    mask = Image.fromarray(found)
    mask.putpalette(colours.flatten().tolist())
    save(mask, places["masks"])
    save(Image.fromarray(mixed(rgb(image), colours[found], numpy.full(found.shape, 0.5))), places["overlays"])


def foreground(
    values: Float[Tensor, "1 1 rows columns"], image: intensity.Image, places: Mapping[str, Path], about: About
) -> None:
    """Write the probability of foreground, 255 = 1, and the image with what is above 0.5 marked."""
    del about
    probability = resized(values, (image.shape[1], image.shape[2]))[0, 0].cpu().numpy()
    save(Image.fromarray((255 * probability).round().astype(numpy.uint8)), places["probabilities"])
    colour = numpy.broadcast_to(numpy.array(FOREGROUND, dtype=numpy.uint8), (*probability.shape, 3))
    save(Image.fromarray(mixed(rgb(image), colour, 0.5 * (probability > 0.5))), places["overlays"])


def legend_of_classes(path: Path, about: About) -> None:
    """Write the colour and the name of every class."""
    save(legend(about.details["classes"], about.details["colours"]), path)


def legend_of_foreground(path: Path, about: About) -> None:
    """Write what the mark of the overlays means."""
    del about
    save(legend(["foreground: probability above 0.5"], [FOREGROUND]), path)


def legend(names: Sequence[str], colours: Sequence[Colour]) -> Image.Image:
    """Draw one line per name, its colour in front, in columns of 40."""
    rows = min(len(names), 40)
    columns = -(-len(names) // rows)
    page = Image.new("RGB", (columns * _WIDTH, rows * _ROW + 4), "white")
    pen = ImageDraw.Draw(page)
    for number, (name, colour) in enumerate(zip(names, colours, strict=True)):
        left, top = number // rows * _WIDTH + 4, number % rows * _ROW + 4
        pen.rectangle((left, top, left + 24, top + _ROW - 5), fill=tuple(colour), outline="gray")
        # the built-in font knows Latin letters only
        pen.text((left + 32, top), f"{number}  {name}".encode("latin-1", "replace").decode("latin-1"), fill="black")
    return page


def save(picture: Image.Image, path: Path) -> None:
    """Write a PNG that is whole or absent."""
    with write_atomic(path) as temporary:
        picture.save(temporary, "PNG")


def rgb(image: intensity.Image) -> UInt8[numpy.ndarray, "height width 3"]:
    """Return what a screen shows of an image: of one or two channels the first, else the first three."""
    shown = intensity.for_display(image[None])[0].permute(1, 2, 0).numpy()  # [height, width, channel]
    return shown[..., :3] if shown.shape[2] >= 3 else numpy.repeat(shown[..., :1], 3, axis=2)


def mixed(
    below: UInt8[numpy.ndarray, "height width 3"],
    above: UInt8[numpy.ndarray, "height width 3"],
    share: Float[numpy.ndarray, "height width"],
) -> UInt8[numpy.ndarray, "height width 3"]:
    """Lay colours over a picture, each pixel by its share."""
    sums = below + (above.astype(numpy.float32) - below) * share[..., None].astype(numpy.float32)
    rounded: UInt8[numpy.ndarray, "height width 3"] = sums.round().astype(numpy.uint8)
    return rounded
