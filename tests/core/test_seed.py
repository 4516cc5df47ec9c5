"""Randomness is a function of its key."""

import torch

from dinokit.core.seed import derived, generator, seed_torch, torch_generator

KEYS = [(0, 1, 2), (0, 2, 1), (1, 1, 2), (0, 1), (0, 1, 2, 0, 1), (0,), (0, 0), (1, 2), (1, 2, 0), (2, 1, 2)]


def test_draws_follow_from_the_key_alone() -> None:
    assert generator(0, 1, 2).random() == generator(0, 1, 2).random()
    assert len({generator(*key).random() for key in KEYS}) == len(KEYS)
    assert len({derived(*key) for key in KEYS}) == len(KEYS)


def test_seeding_torch_repeats_its_draws_and_neighbouring_steps_differ() -> None:
    draws = []
    for step in (3, 3, 4):
        seed_torch(0, step)
        draws.append(float(torch.rand(())))
    assert draws[0] == draws[1] != draws[2]
    assert torch_generator(5).initial_seed() == torch_generator(5).initial_seed() != torch_generator(6).initial_seed()
