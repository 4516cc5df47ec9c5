"""Detectors that a test can afford."""

from dataclasses import replace

import pytest

from dinokit.dense.detr.recipe import RECIPES


def make_small(patch: pytest.MonkeyPatch) -> None:
    """Give the detectors of all recipes few numbers and layers, and keep their state after each step."""
    for name, usual in list(RECIPES.items()):
        every = replace(usual.training, save_every=1, warmup=10)
        patch.setitem(RECIPES, name, replace(usual, dim=64, hidden=64, encoder=1, decoder=2, training=every))
