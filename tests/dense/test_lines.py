"""Drawn matches: each end lies where its point is, in the colour of what it is worth."""

import numpy
import torch

from dinokit.dense.lines import GAP, HEIGHT, RIGHT, WRONG, joined


def test_ends_lie_on_their_points_in_green_and_red() -> None:
    images = torch.full((3, 240, 100), 128, dtype=torch.uint8), torch.full((3, 48, 96), 128, dtype=torch.uint8)
    points = numpy.array([[20.0, 40.0], [70.0, 200.0]]), numpy.array([[10.0, 30.0], [80.0, 5.0]])
    page = joined(images, points, numpy.array([True, False]))
    assert page.size == (200 + GAP + 960, HEIGHT)  # the first is doubled, the second ten times as large
    for index, colour in enumerate((RIGHT, WRONG)):
        (x, y), (u, v) = points[0][index], points[1][index]
        assert page.getpixel((int(2 * x + 1), int(2 * y + 1))) == colour
        assert page.getpixel((int(200 + GAP + 10 * u + 5), int(10 * v + 5))) == colour
