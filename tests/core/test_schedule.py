"""Schedules against the official arrays, and at the steps where conventions differ."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dinokit.core.messages import UserError
from dinokit.core.schedule import Schedule, constant, cosine, ramp

GOLDEN = load_file(Path(__file__).parent.parent / "golden" / "schedules.safetensors")

OFFICIAL = {
    "v3_warmup_cosine": Schedule(peak=1e-3, end=1e-6, warmup=10, decay=40, shape="cosine", inclusive=True),
    "v3_warmup_cosine_then_constant": Schedule(peak=2.0, end=0.5, warmup=5, decay=20, shape="cosine", inclusive=True),
    "v2_cosine_freeze": Schedule(peak=0.004, end=1e-6, warmup=12, decay=45, freeze=3, shape="cosine"),
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_schedules_equal_the_official_arrays(name: str) -> None:
    expected = GOLDEN[f"out.{name}"]
    values = torch.tensor([OFFICIAL[name].at(step) for step in range(len(expected))], dtype=torch.float64)
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-12)


def test_old_warmup_includes_its_peak_and_the_cosine_stops_short_of_its_end() -> None:
    schedule = cosine(1.0, 0.0, steps=20, warmup=5)
    assert schedule.at(4) == 1.0
    assert schedule.at(5) == 1.0
    assert 0 < schedule.at(19) < 0.02
    assert schedule.at(20) == 0.0


def test_a_ramp_stays_at_its_end() -> None:
    schedule = ramp(0.04, 0.07, steps=4)
    assert [schedule.at(step) for step in (0, 3, 4, 1000)] == pytest.approx([0.04, 0.07, 0.07, 0.07])


def test_a_ramp_of_dinov3_reaches_its_end_after_its_last_step() -> None:
    schedule = ramp(0.04, 0.08, steps=4, inclusive=True)
    assert [schedule.at(step) for step in (0, 1, 3, 4, 1000)] == pytest.approx([0.04, 0.05, 0.07, 0.08, 0.08])


def test_a_constant_is_constant() -> None:
    assert {constant(0.3).at(step) for step in (0, 1, 10**9)} == {0.3}


def test_a_constant_with_two_values_is_refused() -> None:
    with pytest.raises(UserError, match="end = peak"):
        Schedule(peak=1.0, end=2.0)


def test_the_peak_is_held_before_the_decay() -> None:
    schedule = cosine(1.0, 0.0, steps=20, warmup=5, hold=10)
    assert schedule.length == 20
    assert {schedule.at(step) for step in range(4, 15)} == {1.0}
    assert 0 < schedule.at(19) < schedule.at(16) < 1
    assert schedule.at(20) == 0.0
