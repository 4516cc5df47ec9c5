"""Bounds hold whenever an instance is made; schedules equal the official arrays, also where conventions differ."""

import pickle
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dinokit.config import from_plain, to_plain
from dinokit.core.messages import UserError
from dinokit.core.numbers import Schedule, above, at_least, between, constant, cosine, ramp
from dinokit.recipes import find
from dinokit.training.config import TrainConfig

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


@dataclass(frozen=True, kw_only=True)
class Settings:
    steps: int = at_least(1)
    flip: float | None = between(0, 1, 0.5)
    scale: tuple[float, float] = between(0, 1, (0.4, 1.0), without=0, rising=True)
    k: tuple[int, ...] = at_least(1, (10, 20))
    window: tuple[int, int] | None = at_least(1, None)
    heat: Schedule = above(0, constant(0.1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"flip": 1.5}, "flip must be between 0 and 1, or null, got 1.5"),
        ({"flip": float("nan")}, "flip must be between 0 and 1, or null, got nan"),
        ({"flip": True}, "got True"),
        ({"scale": (0.0, 1.0)}, "scale must be between 0 and 1 without 0, rising"),
        ({"scale": (0.5, 0.4)}, "rising"),
        ({"scale": 0.5}, "^scale must be 2 numbers, between 0 and 1 without 0, rising, got 0.5"),
        ({"scale": (0.5,)}, r"^scale must be 2 numbers, .* got \(0.5,\)"),
        ({"window": (3, 4, 5)}, r"^window must be 2 numbers, at least 1, or null, got \(3, 4, 5\)"),
        ({"k": ()}, r"k must be at least 1, got \(\)"),
        ({"k": (3, 0)}, r"k must be at least 1, got \(3, 0\)"),
        ({"heat": ramp(0.0, 0.1, steps=5)}, r"heat must be above 0, got 0.0 to 0.1"),
        ({"heat": cosine(0.1, 0.0, steps=5)}, "heat must be above 0"),
        ({"heat": Schedule(peak=0.1, end=0.1, freeze=2)}, "heat must be above 0"),
    ],
)
def test_a_value_outside_is_refused_with_its_bound(change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Settings(**({"steps": 1} | change))  # type: ignore[arg-type]


def test_a_bounded_field_is_a_field_like_any_other() -> None:
    made = Settings(steps=2, flip=None, k=[3, 4])  # type: ignore[arg-type]
    assert made == Settings(steps=2, flip=None, k=(3, 4)) == pickle.loads(pickle.dumps(made))
    assert (Settings(steps=2).k, made.k) == ((10, 20), (3, 4))
    with pytest.raises(UserError, match="^steps is missing; give it a value$"):
        Settings()
    with pytest.raises(UserError, match="steps must be at least 1"):
        replace(made, steps=-3)


def test_the_dotted_path_is_named_where_it_is_known() -> None:
    plain = to_plain(find("demo"))
    plain["experiment"]["data"]["views"]["flip"] = 2.0
    with pytest.raises(UserError, match=r"^experiment\.data\.views\.flip must be between 0 and 1, got 2\.0$"):
        from_plain(TrainConfig, plain)
