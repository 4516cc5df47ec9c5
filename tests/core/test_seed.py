"""Randomness is a function of its key."""

import torch

from dinokit.core.seed import derived, generator

KEYS = [(0, 1, 2), (0, 2, 1), (1, 1, 2), (0, 1), (0, 1, 2, 0, 1), (0,), (0, 0), (1, 2), (1, 2, 0), (2, 1, 2)]


def test_draws_follow_from_the_key_alone() -> None:
    assert generator(0, 1, 2).random() == generator(0, 1, 2).random()
    assert len({generator(*key).random() for key in KEYS}) == len(KEYS)
    assert len({derived(*key) for key in KEYS}) == len(KEYS)


def test_torch_takes_every_seed_and_neighbouring_steps_differ() -> None:
    draws = [torch.rand((), generator=torch.Generator().manual_seed(derived(0, step))).item() for step in (3, 3, 4)]
    assert draws[0] == draws[1] != draws[2]
