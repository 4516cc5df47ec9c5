"""Heads in front of an adaptation: when their loss has settled. Whole runs of it are in test_adapt.py."""

import pytest

from dinokit import recipes
from dinokit.commands.fitting import change, judged


def test_it_is_said_whether_the_loss_of_the_heads_has_settled() -> None:
    def line(*losses: float) -> str:
        return judged(losses)

    falling = line(*(100.0 - step for step in range(20)))
    assert "their loss still falls (2.4% in the last tenth" in falling
    assert "more --heads" in falling
    assert "has settled at 10.000 (+0.0%" in line(*[10.0] * 20)
    assert "has settled at 9.950 (-0.5%" in line(*[10.0] * 18, 9.95, 9.95)
    assert "has settled at 11.000 (+10.0%" in line(*[10.0] * 18, 11.0, 11.0)
    assert "too few lines" in line(1.0)


@pytest.mark.parametrize("name", ["adapt", "adapt-small"])
def test_the_heads_of_a_recipe_have_lines_enough_and_one_rate(name: str) -> None:
    """Else their loss cannot be judged, or looks settled because the rate has fallen."""
    found = recipes.find(name)
    assert change([1.0] * (found.experiment.steps // found.runtime.log_every)) == 0.0
    rate = found.experiment.optim.lr
    assert rate.at(rate.warmup) == rate.at(found.experiment.steps - 1) == rate.peak
