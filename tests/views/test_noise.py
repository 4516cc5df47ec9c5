"""Noise lies in one square, stays in range, leaves the rest alone, and follows from (seed, step, position)."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dinokit.core.messages import UserError
from dinokit.core.seed import generator
from dinokit.images.intensity import Pixels
from dinokit.views import augment, multicrop, noise

PLAIN = augment.Config(jitter=0.0, grayscale=0.0, blur=0.0)
CPU = torch.device("cpu")


def drawn(count: int) -> np.ndarray:
    return generator(0).random((count, noise.DRAWS))


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 40), (4, 1, 1)])
def test_noise_fills_one_square_and_changes_nothing_else(shape: tuple[int, int, int]) -> None:
    flat = torch.full((20, *shape), 0.5)
    config = noise.Noise(probability=1.0, side=(0.25, 0.5), sigma=(0.1, 0.2))
    noisy = noise.add(flat.clone(), drawn(20), config)
    assert ((noisy >= 0) & (noisy <= 1)).all()
    for image in noisy:
        changed = (image != 0.5).all(dim=0)
        rows, columns = changed.any(dim=1), changed.any(dim=0)
        assert torch.equal(changed, rows[:, None] & columns)  # a rectangle
        for line, length in ((rows, shape[1]), (columns, shape[2])):
            places = line.nonzero()[:, 0]
            assert len(places) == 0 or len(places) == places[-1] - places[0] + 1 <= 0.5 * length + 1
    assert len(noisy.unique(dim=0)) > 1


@pytest.mark.parametrize(
    ("draws", "rows", "columns"),  # the centre's row and column, side; what has noise of 40 pixels
    [
        ((0.25, 0.75, 0.5), (2, 18), (22, 38)),
        ((0.5, 0.3, 0.0), (16, 24), (8, 16)),
        ((0.0, 1.0, 1.0), (0, 12), (28, 40)),
    ],
)
def test_the_square_lies_where_it_was_drawn(
    draws: tuple[float, ...], rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    config = noise.Noise(probability=1.0, side=(0.2, 0.6), sigma=(0.1, 0.1))
    noisy = noise.add(torch.full((1, 1, 40, 40), 0.5), np.array([[0.0, *draws, 0.5, 0.3]]), config)
    wanted = torch.zeros(40, 40, dtype=torch.bool)
    wanted[slice(*rows), slice(*columns)] = True
    assert torch.equal(noisy[0, 0] != 0.5, wanted)


def test_noise_is_no_stronger_than_white() -> None:
    with pytest.raises(UserError, match=r"sigma must be between 0 and 1 without 0, rising, got \(1e\+38, 1e\+39\)"):
        noise.Noise(sigma=(1e38, 1e39))


def test_its_deviation_is_the_one_that_was_drawn() -> None:
    config = noise.Noise(probability=1.0, side=(1.0, 1.0), sigma=(0.05, 0.05))
    middle = np.array([[0.0, 0.5, 0.5, 0.0, 0.0, 0.3]])
    noisy = noise.add(torch.full((1, 3, 64, 64), 0.5), middle, config)
    assert noisy.std() == pytest.approx(0.05, rel=0.03)


def test_as_many_views_have_noise_as_were_asked_for() -> None:
    config = noise.Noise(probability=0.25, side=(1.0, 1.0))
    noisy = noise.add(torch.full((400, 1, 4, 4), 0.5), drawn(400), config)
    assert (noisy != 0.5).flatten(1).any(dim=1).float().mean() == pytest.approx(0.25, abs=0.06)


def test_noise_moves_no_other_number_and_a_slice_of_the_batch_has_the_same() -> None:
    images = [torch.full((3, 30, 30), 128, dtype=torch.uint8) for _ in range(5)]
    noisy = replace(PLAIN, noise=noise.Noise(probability=1.0))
    config = multicrop.Config(global_size=16, local_size=8, local_count=2, first=PLAIN, second=noisy, local=noisy)
    clean = replace(config, second=PLAIN, local=PLAIN)

    def made(config: multicrop.Config, first: int, last: int) -> multicrop.Views:
        return multicrop.cut(images[first:last], config, Pixels(), seed=1, step=2, first=first).on(CPU)

    whole, without, part = made(config, 0, 5), made(clean, 0, 5), made(config, 2, 4)
    assert torch.equal(whole.global_crops[0], without.global_crops[0])
    assert not torch.equal(whole.global_crops[1], without.global_crops[1])
    assert torch.equal(whole.global_crops[:, 2:4], part.global_crops)
    assert torch.equal(whole.local_crops[:, 2:4], part.local_crops)
