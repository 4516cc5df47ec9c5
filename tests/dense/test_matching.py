"""Nearest places: interpolation keeps pixel centres, cutting the work changes nothing, drawings show what was found."""

import numpy
import pytest
import torch
from torch.nn import functional as F

from dinokit.dense import matching
from dinokit.dense.matching import GAP, HEIGHT, RIGHT, WRONG, Mode, judged, lattice, nearest, sampled


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_samples_on_a_lattice_are_those_of_a_resized_map(mode: Mode) -> None:
    maps = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0))
    resized = F.interpolate(maps[None], size=(12, 12), mode=mode, align_corners=False)[0]  # [dim, 12, 12]
    expected = F.normalize(resized.flatten(1).T, dim=-1)
    torch.testing.assert_close(sampled(maps, lattice(12), mode=mode), expected, atol=1e-5, rtol=0)


def test_x_comes_before_y() -> None:
    maps = torch.eye(6).unflatten(1, (2, 3))  # every patch a direction of its own
    found = sampled(maps, torch.tensor([[2.5 / 3, 0.5 / 2]]))
    assert found.argmax().item() == 2  # the first row, the last column
    assert lattice(2).tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]


def test_parts_find_what_the_whole_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(8, 4, 4, generator=generator)
    queries = F.normalize(torch.randn(5, 8, generator=generator), dim=-1)
    similarity = queries @ sampled(maps, lattice(8)).T
    monkeypatch.setattr(matching, "CHUNK", 56)  # 7 of 64 places at a time
    index, cosine = nearest(queries, maps, lattice(8))
    assert index.tolist() == similarity.argmax(dim=1).tolist()
    torch.testing.assert_close(cosine, similarity.max(dim=1).values)


def test_length_says_nothing() -> None:
    maps = torch.tensor([[1.0, 100.0], [0.0, 100.0]])[:, None]  # [2, 1, 2]
    index, cosine = nearest(torch.tensor([[1.0, 0.0]]), maps, torch.tensor([[0.75, 0.5], [0.25, 0.5]]))
    assert (index.item(), round(cosine.item(), 5)) == (1, 1)


def test_ends_lie_on_their_points_in_green_and_red() -> None:
    images = torch.full((3, 240, 100), 128, dtype=torch.uint8), torch.full((3, 48, 96), 128, dtype=torch.uint8)
    points = numpy.array([[20.0, 40.0], [70.0, 200.0]]), numpy.array([[10.0, 30.0], [80.0, 5.0]])
    page = judged(images, points, numpy.array([True, False]))
    assert page.size == (200 + GAP + 960, HEIGHT)  # the first is doubled, the second ten times as large
    for index, colour in enumerate((RIGHT, WRONG)):
        (x, y), (u, v) = points[0][index], points[1][index]
        assert page.getpixel((int(2 * x + 1), int(2 * y + 1))) == colour
        assert page.getpixel((int(200 + GAP + 10 * u + 5), int(10 * v + 5))) == colour
