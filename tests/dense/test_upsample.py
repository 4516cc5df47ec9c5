"""Both ways to a finer grid are their formulas, and the bilateral one keeps edges that the guide has."""

import math

import pytest
import torch
from torch.nn import functional

from dinokit.dense.upsample import COLOUR, SPACE, Bilateral, Bilinear, nearest

Fill = Bilinear | Bilateral


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def guide(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def filled(fill: Fill, vectors: torch.Tensor) -> torch.Tensor:
    """All points, row of cells by row of cells."""
    own = nearest(fill.points[0], fill.cells[0])
    bands = []
    for cell in range(fill.cells[0]):
        first = max(cell - fill.reach, 0)
        around = vectors[first : cell + fill.reach + 1]
        bands.append(fill(around, first=first, wanted=(own == cell).nonzero().flatten()))
    return torch.cat(bands)


@pytest.mark.parametrize(
    ("points", "cells"), [((12, 20), (3, 5)), ((7, 11), (3, 5)), ((3, 5), (3, 5)), ((9, 4), (1, 1))]
)
def test_bilinear_is_that_of_torch(points: tuple[int, int], cells: tuple[int, int]) -> None:
    vectors = noise(*cells, 6)
    expected = functional.interpolate(vectors.permute(2, 0, 1)[None], size=points, mode="bilinear")[0].permute(1, 2, 0)
    # half a unit in the last place of float16
    torch.testing.assert_close(filled(Bilinear(points, cells), vectors).float(), expected, rtol=2**-11, atol=1e-6)


@pytest.mark.parametrize(("points", "cells"), [((12, 20), (3, 5)), ((6, 8), (6, 8)), ((24, 72), (2, 36))])
def test_bilateral_is_its_formula(points: tuple[int, int], cells: tuple[int, int]) -> None:
    image, vectors = guide(3, *points), noise(*cells, 6)
    colours, (high, wide) = image.double() / 255, (points[0] // cells[0], points[1] // cells[1])
    means = functional.avg_pool2d(colours[None], (high, wide))[0]
    expected = torch.zeros(*points, 6, dtype=torch.float64)
    for row in range(points[0]):
        for column in range(points[1]):
            y, x = (row + 0.5) / high - 0.5, (column + 0.5) / wide - 0.5
            weights = 0.0
            for down in range(max(row // high - 2, 0), min(row // high + 3, cells[0])):
                for right in range(max(column // wide - 2, 0), min(column // wide + 3, cells[1])):
                    away = (y - down) ** 2 + (x - right) ** 2
                    differ = float(((colours[:, row, column] - means[:, down, right]) ** 2).sum())
                    weight = math.exp(-away / (2 * SPACE**2)) * math.exp(-differ / (2 * COLOUR**2))
                    expected[row, column] += weight * vectors[down, right]
                    weights += weight
            expected[row, column] /= weights
    found = filled(Bilateral(image, points, cells), vectors)
    torch.testing.assert_close(found.double(), expected, rtol=2**-10, atol=1e-4)


@pytest.mark.parametrize("cells", [(5, 7), (30, 50), (23, 60), (40, 1)])
def test_points_that_no_cell_divides_are_all_filled(cells: tuple[int, int]) -> None:
    image, vectors = guide(3, 23, 37), torch.ones(*cells, 2)
    torch.testing.assert_close(filled(Bilateral(image, (23, 37), cells), vectors), torch.ones(23, 37, 2).half())


def test_a_colour_that_is_nowhere_around_makes_no_hole() -> None:
    image = torch.zeros(3, 16, 16, dtype=torch.uint8)
    image[:, 8, 8] = 255  # further from the mean of its cell than float32 can weigh
    assert filled(Bilateral(image, (16, 16), (4, 4)), noise(4, 4, 2)).isfinite().all()


def test_features_end_where_colours_do() -> None:
    """Two halves whose edge lies inside a patch: the vectors say which half most of the patch is in."""
    image = torch.zeros(3, 32, 32, dtype=torch.uint8)
    image[:, :, 18:] = 255
    vectors = torch.zeros(4, 4, 1)
    vectors[:, 2] = 1 - 2 / 8
    vectors[:, 3] = 1
    truth = image[0].float() / 255
    apart = [
        float((filled(fill, vectors)[..., 0].float() - truth).abs().mean())
        for fill in (Bilinear((32, 32), (4, 4)), Bilateral(image, (32, 32), (4, 4)))
    ]
    assert apart[1] < apart[0] / 2


def test_without_edges_in_the_guide_distance_alone_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = noise(4, 4, 2)
    plain = filled(Bilateral(torch.zeros(3, 16, 16, dtype=torch.uint8), (16, 16), (4, 4)), vectors)
    monkeypatch.setattr("dinokit.dense.upsample.COLOUR", 1e3)
    deep = filled(Bilateral(guide(3, 16, 16), (16, 16), (4, 4)), vectors)
    torch.testing.assert_close(plain, deep, rtol=2**-10, atol=1e-4)
