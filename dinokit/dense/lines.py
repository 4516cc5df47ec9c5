"""Matches drawn: two images beside each other, and a line from every point to its match, green if it is right."""

import numpy
from jaxtyping import Bool, Float
from PIL import Image, ImageDraw

from dinokit.core.order import evenly
from dinokit.dense.draw import rgb
from dinokit.images import intensity

RIGHT, WRONG = (40, 200, 80), (235, 60, 60)
HEIGHT, GAP = 480, 8  # pixels of a picture and between two
MOST = 60  # lines

Points = Float[numpy.ndarray, "point 2"]


def joined(
    images: tuple[intensity.AnyImage, intensity.AnyImage],
    points: tuple[Points, Points],
    right: Bool[numpy.ndarray, " point"],
) -> Image.Image:
    """Draw up to 60 matches, evenly spaced in their order; points in pixels, whole numbers at the centres."""
    shown = [Image.fromarray(rgb(image)) for image in images]
    scales = [HEIGHT / picture.height for picture in shown]
    shown = [picture.resize((max(1, round(picture.width * HEIGHT / picture.height)), HEIGHT)) for picture in shown]
    page = Image.new("RGB", (shown[0].width + GAP + shown[1].width, HEIGHT), "white")
    lefts = (0, shown[0].width + GAP)
    for picture, left in zip(shown, lefts):
        page.paste(picture, (left, 0))
    pen = ImageDraw.Draw(page)
    chosen = evenly(MOST, len(right))
    for index in sorted(chosen.tolist(), key=lambda index: bool(right[index])):  # right ones above wrong ones
        colour = RIGHT if right[index] else WRONG
        ends = [
            ((each[index, 0] + 0.5) * scale + left, (each[index, 1] + 0.5) * scale)
            for each, scale, left in zip(points, scales, lefts)
        ]
        pen.line([*ends[0], *ends[1]], fill=colour, width=2)
        for x, y in ends:
            pen.ellipse((x - 4, y - 4, x + 4, y + 4), fill=colour, outline="white")
    return page
