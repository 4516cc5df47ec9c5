"""Which place of one image is most like a place of another, by the cosine of interpolated patches; and matches drawn.

A place is (x, y) as shares of the image's sides: (0, 0) is its upper left corner and (1, 1) its lower right one, so
that the centre of pixel i of n is at (i + 0.5) / n, whatever the image was resized to. The centre of a patch has the
value of the patch, the rest lies between (align_corners False); beyond the outer centres the border goes on.
"""

from collections.abc import Sequence
from typing import Literal

import numpy
import torch
from jaxtyping import Bool, Float, Int64
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F

from dinokit.core.order import evenly
from dinokit.dense.draw import Colour, rgb
from dinokit.images import intensity

CHUNK = 1 << 24  # numbers held at once: 64 MiB
RIGHT, WRONG = (40, 200, 80), (235, 60, 60)
HEIGHT, GAP, MOST = 480, 8, 60  # pixels of a picture and between two; lines

Mode = Literal["bilinear", "bicubic"]
Points = Float[numpy.ndarray, "point 2"]


def sampled(
    maps: Float[Tensor, "dim rows columns"], places: Float[Tensor, "place 2"], *, mode: Mode = "bilinear"
) -> Float[Tensor, "place dim"]:
    """Interpolate a map of patches that covers the whole image; every row of the result has length 1."""
    grid = (2 * places - 1).to(maps)[None, None]  # [1, 1, place, 2] in [-1, 1]
    found = F.grid_sample(maps[None], grid, mode=mode, padding_mode="border", align_corners=False)
    return F.normalize(found[0, :, 0].T, dim=-1)


def lattice(count: int) -> Float[Tensor, "place 2"]:
    """Return the centres of count x count equal cells, row by row."""
    centres = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    rows, columns = torch.meshgrid(centres, centres, indexing="ij")
    return torch.stack([columns.flatten(), rows.flatten()], dim=1)


def nearest(
    queries: Float[Tensor, "query dim"],
    maps: Float[Tensor, "dim rows columns"],
    places: Float[Tensor, "place 2"],
    *,
    mode: Mode = "bilinear",
) -> tuple[Int64[Tensor, " query"], Float[Tensor, " query"]]:
    """Return which place of a map is most like each query, the first of equals, and their cosine.

    Args:
        queries: rows of length 1.
        places: at least one; the map is interpolated for a part of them at a time.
    """
    best = queries.new_full((len(queries),), -torch.inf)
    found = torch.zeros(len(queries), dtype=torch.int64, device=queries.device)
    step = max(1, CHUNK // max(queries.shape))
    for start in range(0, len(places), step):
        value, index = (queries @ sampled(maps, places[start : start + step], mode=mode).T).max(dim=1)
        better = value > best
        best = torch.where(better, value, best)
        found[better] = index[better] + start
    return found, best


def judged(
    images: tuple[intensity.AnyImage, intensity.AnyImage],
    points: tuple[Points, Points],
    right: Bool[numpy.ndarray, " point"],
) -> Image.Image:
    """Draw up to 60 matches, evenly spaced, green if it is right and above those that are wrong; see `joined`."""
    chosen = evenly(MOST, len(right))
    chosen = chosen[numpy.argsort(right[chosen], kind="stable")]
    colours = [RIGHT if each else WRONG for each in right[chosen]]
    return joined(images, (points[0][chosen], points[1][chosen]), colours)


def joined(
    images: tuple[intensity.AnyImage, intensity.AnyImage], points: tuple[Points, Points], colours: Sequence[Colour]
) -> Image.Image:
    """Draw two images beside each other and a line per match, in its colour; later ones lie above.

    Points are in pixels, whole numbers at the centres.
    """
    shown = [Image.fromarray(rgb(image)) for image in images]
    scales = [HEIGHT / picture.height for picture in shown]
    shown = [picture.resize((max(1, round(picture.width * HEIGHT / picture.height)), HEIGHT)) for picture in shown]
    page = Image.new("RGB", (shown[0].width + GAP + shown[1].width, HEIGHT), "white")
    lefts = (0, shown[0].width + GAP)
    for picture, left in zip(shown, lefts):
        page.paste(picture, (left, 0))
    pen = ImageDraw.Draw(page)
    for index, colour in enumerate(map(tuple, colours)):
        ends = [
            ((each[index, 0] + 0.5) * scale + left, (each[index, 1] + 0.5) * scale)
            for each, scale, left in zip(points, scales, lefts)
        ]
        pen.line([*ends[0], *ends[1]], fill=colour, width=2)
        for x, y in ends:
            pen.ellipse((x - 4, y - 4, x + 4, y + 4), fill=colour, outline="white")
    return page
