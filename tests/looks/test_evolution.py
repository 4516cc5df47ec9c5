"""Checkpoints in colours that agree: what is turned between them is undone, what differs stays."""

import numpy
import torch

from dinokit.looks import evolution, pca
from tests.looks.test_looks import PIXELS, made, noise


def spread(*shape: int, seed: int = 0) -> torch.Tensor:
    """Return features with three directions that stand out."""
    return noise(*shape, seed=seed) * torch.tensor([5.0, 4, 3] + [0.1] * (shape[-1] - 3))


def test_a_rotation_of_the_features_changes_no_colour() -> None:
    """What the axes are called, and which way they go, is nothing that a network has learned."""
    rows, other = spread(5, 6, 8), spread(4, 4, 8, seed=1)
    rotation = torch.linalg.qr(noise(8, 8, seed=2)).Q
    paint = evolution.agreeing([made(rows), made(other, "b.png")])
    plain = paint([made(rows), made(other, "b.png")])
    turned = paint([made(rows @ rotation), made(other @ rotation, "b.png")])
    for one, two in zip(plain, turned, strict=True):
        assert abs(one.astype(int) - two).max() <= 1
    assert plain[0].shape == (5, 6, 3)
    assert plain[0].std() > 20


def test_the_last_checkpoint_is_coloured_as_pca_alone_would() -> None:
    last = [made(spread(5, 6, 8))]
    ((_, expected),) = pca.fit(PIXELS, last, pca.Config())(last[0])
    assert numpy.array_equal(evolution.agreeing(last)(last)[0], expected)


def test_components_that_change_places_keep_their_colours() -> None:
    """A checkpoint whose second direction has become its first would else swap red and green."""
    rows = spread(6, 6, 8)
    earlier = rows * torch.tensor([0.5, 1.5, 1] + [1.0] * 5)
    found = evolution.agreeing([made(rows)])
    now, before = found([made(rows)])[0].astype(int), found([made(earlier)])[0].astype(int)
    assert abs(now - before).mean() < 8  # of 255; whitening takes the scale away, the small directions move a little


def test_no_turn_brings_scores_nearer() -> None:
    scores, wanted = noise(30, 3).double(), noise(30, 3, seed=1).double()
    found = evolution.turn(scores, wanted)
    torch.testing.assert_close(found @ found.T, torch.eye(3, dtype=torch.float64))
    best = (scores @ found - wanted).norm()
    for seed in range(30):
        other = torch.linalg.qr(noise(3, 3, seed=seed).double()).Q
        assert (scores @ other - wanted).norm() >= best
